"""The aggregate trades of one symbol: the fills of one taker order at one price."""

from functools import partial

from coinmesh_simulators.exchange import payloads
from coinmesh_simulators.exchange.hub import Hub, Payload
from coinmesh_simulators.exchange.instruments import Instrument
from coinmesh_simulators.exchange.store import Store, TradeRow


class Aggregates:
    """Gives each trade its aggregate, and publishes aggregates when their order is filled."""

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
        """A generated trade with its aggregate's id."""
        if not self._open or not _same_order(self._open[-1], trade):
            self.flush(now)
            self.last_id += 1
        row = trade._replace(aggregate=self.last_id)
        self._open.append(row)
        return row

    def assign_recorded(self, trade: TradeRow) -> TradeRow:
        """A trade of a capture that has aggregates itself, with the id of the last if it fits."""
        aggregate, first, last = self._recorded
        return trade._replace(aggregate=aggregate if first <= trade.id <= last else -1)

    def flush(self, now: int) -> None:
        """Publish the open aggregate trade: the order that made it is filled."""
        if self._open:
            rows, self._open = self._open, []
            build = partial(payloads.aggregate, self._symbol, rows, now)
            self._hub.publish(self._stream, build)

    def pass_on(self, aggregate: int, first: int, last: int, payload: Payload) -> None:
        """Take a recorded aggregate trade and pass it on."""
        self._recorded = (aggregate, first, last)
        self._store.set_aggregate(self._key, aggregate, first, last)
        self.last_id = aggregate
        self._hub.publish(self._stream, payload)


def _same_order(one: TradeRow, other: TradeRow) -> bool:
    """Whether two trades count as fills of one taker order: same time, price and side."""
    return (one.time, one.price, one.buyer_is_maker) == (
        other.time,
        other.price,
        other.buyer_is_maker,
    )
