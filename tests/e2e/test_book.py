"""The book and the ticker as they are now, against the exchange's own."""

from decimal import Decimal
from typing import Any

import pytest

from coinmesh_local.testing import eventually

pytestmark = pytest.mark.e2e

SIDES = ("bids", "asks")


def test_the_book_is_the_exchanges(run: Any, call: Any) -> None:
    for symbol, instrument in run.instruments.items():

        def same(symbol: str = symbol, instrument: str = instrument) -> bool:
            truth = call(run.exchange, "/api/v3/depth", symbol=symbol, limit="20")
            book = call(run.rest, f"/v1/instruments/{instrument}/book", depth="20")
            if book["stale"] or int(book["lastUpdateId"]) != truth["lastUpdateId"]:
                return False  # the market went on between the two
            levels = [[[level["price"], level["size"]] for level in book[s]] for s in SIDES]
            assert levels == [truth[side] for side in SIDES], symbol
            return True

        eventually(same, f"book and exchange at the same update of {symbol}")


def test_the_ticker_agrees_with_the_exchange(run: Any, call: Any) -> None:
    for symbol, instrument in run.instruments.items():
        ticker = call(run.rest, f"/v1/instruments/{instrument}/ticker")
        assert Decimal(ticker["bidPrice"]) < Decimal(ticker["askPrice"])
        assert Decimal(ticker["lastPrice"]) > 0
        assert ticker["instrument"] == instrument
        listed = call(run.rest, f"/v1/instruments/{instrument}")
        assert (listed["symbol"], listed["status"]) == (symbol, "TRADING")
