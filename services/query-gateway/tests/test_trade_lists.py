"""Lists of trades while they are written: memory, table and Kafka as one, without a hole."""

from __future__ import annotations

import signal
import threading
import time
from itertools import count
from typing import Any

import grpc
import pytest
from market_data import trade
from stack import Feeder, Gateway, failure, stamp, wait

from coinmesh_contracts.market.v1 import market_service_pb2 as api
from coinmesh_local.testing import TestMesh

pytestmark = pytest.mark.component
RATE = 2000
TOTAL = 40_000
#: Every so many-th id doesn't exist, as a venue may have it.
SKIPPED = 997


class Market:
    """One instrument that trades `RATE` times a second."""

    def __init__(self, feeder: Feeder, name: str) -> None:
        self._feeder, self.name = feeder, name
        self.start_ms = int(time.time() * 1000) - TOTAL * 1000 // RATE
        self.sent: list[int] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def send(self, ids: list[int]) -> None:
        """Append trades; their ids join `sent` before Kafka has them."""
        self.sent += ids
        self._feeder.send(
            *(trade(n, self.start_ms * 1000 + n * 1_000_000 // RATE, self.name) for n in ids)
        )

    def __enter__(self) -> Market:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        for first in range(1, TOTAL + 1, 100):
            due += 100 / RATE
            if self._stopping.wait(max(0.0, due - time.monotonic())):
                return
            self.send([n for n in range(first, first + 100) if n % SKIPPED])


def listing(gateway: Gateway, market: Market, *, newest_first: bool) -> list[int]:
    """All ids, by pages, oldest first; a page that can't be proven complete is requested again."""
    request: dict[str, Any] = {"instrument": market.name, "page_size": 1000}
    if not newest_first:
        request["start_time"] = stamp(market.start_ms)
    ids: list[int] = []
    token = ""
    while True:
        try:
            page = gateway.market.ListTrades(api.ListTradesRequest(**request, page_token=token))
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:  # type: ignore[attr-defined]
                raise
            continue
        # A mesh that is kept between runs has older trades.
        page_ids = [
            row.trade_id
            for row in page.trades
            if row.event_time.ToMilliseconds() >= market.start_ms
        ]
        ids = [*page_ids, *ids] if newest_first else [*ids, *page_ids]
        token = page.next_page_token
        if not token:
            return ids


@pytest.mark.timeout(900)
def test_lists_during_2000_trades_a_second_have_no_hole(
    mesh: TestMesh, gateway: Gateway, feeder: Feeder, name: str
) -> None:
    mesh.require("tick-writer")
    with Market(feeder, name) as market:
        for turn in count():
            ids = listing(gateway, market, newest_first=turn % 2 == 0)
            assert ids == market.sent[: len(ids)], f"listing {turn}"
            if len(ids) == TOTAL - TOTAL // SKIPPED:
                return


def test_list_is_complete_while_writer_is_stopped(
    mesh: TestMesh, gateway: Gateway, feeder: Feeder, name: str
) -> None:
    mesh.require("tick-writer")
    market = Market(feeder, name)
    market.send(list(range(1, 2001)))
    writer = mesh.component("tick-writer")
    writer.signal(signal.SIGSTOP)
    try:
        market.send(list(range(2001, 8001)))
        last = api.ListTradesRequest(instrument=name, page_size=1)
        wait(lambda: gateway.market.ListTrades(last).trades[-1].trade_id, lambda n: n == 8000)
        for newest_first in (True, False):
            assert listing(gateway, market, newest_first=newest_first) == market.sent
        # More than is read for one request: an error that says when to try again, not a hole.
        market.send(list(range(8001, 70_001)))
        wait(lambda: gateway.market.ListTrades(last).trades[-1].trade_id, lambda n: n == 70_000)
        old = api.ListTradesRequest(
            instrument=name, end_time=stamp(market.start_ms + 50_000 * 1000 // RATE), page_size=1000
        )
        code, reason, delay = failure(lambda: gateway.market.ListTrades(old))
        assert (code, reason, delay is not None) == ("UNAVAILABLE", "TRADES_BEHIND", True)
    finally:
        writer.signal(signal.SIGCONT)
    assert listing(gateway, market, newest_first=True) == market.sent
