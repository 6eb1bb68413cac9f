"""Best bid and ask of one instrument, in the order of the venue's update ids."""

from __future__ import annotations

from coinmesh_sources.inputs import Record
from collector_binance.core.encode import Encoder
from collector_binance.core.messages import QuoteData
from collector_binance.core.units import parse


class Quotes:
    """The bookTicker stream's state: quotes that are not newer than the last are dropped."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.last_id = -1
        self.last_time: int | None = None  # bookTicker has no time
        self.last: tuple[int, int, int, int] | None = None
        self._texts = ("", "", "", "")
        self.events = 0
        self.duplicates = 0

    def restart(self) -> None:
        """Reset the last id after the venue's update ids restarted: any next quote is new."""
        self.last_id = -1

    def on_quote(self, data: QuoteData, receive_ns: int, out: list[Record]) -> bool:
        """Process a quote from the stream; return False if it is not new.

        Raises:
            DecimalError: A value can't be represented; the state is unchanged.
        """
        if data.update_id <= self.last_id:
            self.duplicates += 1
            return False
        # Most quotes change one or two of the four values.
        texts, known = self._texts, self.last
        given = (data.bid_price, data.bid_size, data.ask_price, data.ask_size)
        if known is None:
            units = (parse(given[0]), parse(given[1]), parse(given[2]), parse(given[3]))
        else:
            units = (
                known[0] if given[0] == texts[0] else parse(given[0]),
                known[1] if given[1] == texts[1] else parse(given[1]),
                known[2] if given[2] == texts[2] else parse(given[2]),
                known[3] if given[3] == texts[3] else parse(given[3]),
            )
        record = self._encoder.quote(data, units, receive_ns)
        self.last_id = data.update_id
        self.last, self._texts = units, given
        self.events += 1
        out.append(record)
        return True
