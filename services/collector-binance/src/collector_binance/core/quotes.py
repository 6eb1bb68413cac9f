"""Best bid and ask of one instrument, in the order of the venue's update ids."""

from __future__ import annotations

from collector_binance.core.encode import Encoder, Record
from collector_binance.core.messages import QuoteData
from collector_binance.core.units import parse


class Quotes:
    """The bookTicker stream's state: quotes that are not newer than the last are dropped."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.last_id = -1
        self.last_time: int | None = None  # bookTicker has no time
        self.last: tuple[int, int, int, int] | None = None
        self.events = 0
        self.duplicates = 0

    def on_quote(self, data: QuoteData, receive_ns: int, out: list[Record]) -> bool:
        """A quote from the stream; False when it is not new.

        Raises:
            DecimalError: A value can't be held; the state is unchanged.
        """
        if data.update_id <= self.last_id:
            self.duplicates += 1
            return False
        units = (
            parse(data.bid_price),
            parse(data.bid_size),
            parse(data.ask_price),
            parse(data.ask_size),
        )
        record = self._encoder.quote(data, units, receive_ns)
        self.last_id = data.update_id
        self.last = units
        self.events += 1
        out.append(record)
        return True
