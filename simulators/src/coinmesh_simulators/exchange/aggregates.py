"""The aggregate trades of one symbol: the fills of one taker order at one price."""

from functools import partial

from coinmesh_simulators.exchange import payloads
from coinmesh_simulators.exchange.hub import Hub, Payload
from coinmesh_simulators.exchange.instruments import Instrument
from coinmesh_simulators.exchange.store import Store, TradeRow


class Aggregates:
    """Assign each trade to an aggregate, and publish aggregates when their order is filled."""

    def __init__(
        self, key: int, instrument: Instrument, hub: Hub, store: Store, last_id: int
    ) -> None:
        self.last_id = last_id
        self._key = key
        self._symbol = instrument.symbol
        self._stream = instrument.stream + "@aggTrade"
        self._hub = hub
        self._store = store
        self._open: list[TradeRow] = []
        self._recorded = (0, 1, 0)  # id, first and last trade

    def assign(self, trade: TradeRow, now: int) -> TradeRow:
        """Return a generated trade with its aggregate's id."""
        if not self._open or not _same_order(self._open[-1], trade):
            self.flush(now)
            self.last_id += 1
        row = trade._replace(aggregate=self.last_id)
        self._open.append(row)
        return row

    def assign_recorded(self, trade: TradeRow) -> TradeRow:
        """Return a capture's trade with the id of the last recorded aggregate, or -1."""
        aggregate, first, last = self._recorded
        return trade._replace(aggregate=aggregate if first <= trade.id <= last else -1)

    def flush(self, now: int) -> None:
        """Publish the open aggregate trade, whose order is filled."""
        if self._open:
            rows, self._open = self._open, []
            build = partial(payloads.aggregate, self._symbol, rows, now)
            self._hub.publish(self._stream, build)

    def pass_on(self, aggregate: int, first: int, last: int, payload: Payload) -> None:
        """Record an aggregate trade of a capture and publish it."""
        self._recorded = (aggregate, first, last)
        self._store.set_aggregate(self._key, aggregate, first, last)
        self.last_id = aggregate
        self._hub.publish(self._stream, payload)


def _same_order(one: TradeRow, other: TradeRow) -> bool:
    """Return whether two trades are fills of one taker order: same time, price and side."""
    return (one.time, one.price, one.buyer_is_maker) == (
        other.time,
        other.price,
        other.buyer_is_maker,
    )
