"""Catalogue: names and statuses from exchangeInfo, and answers that cannot be used."""

import json

import pytest
from fakes import Rest, entry, exchange_info

from coinmesh_contracts.events.v1.event_type_pb2 import EVENT_TYPE_DEAD_LETTER as DEAD
from coinmesh_contracts.events.v1.frame_batch_pb2 import FrameKind
from coinmesh_sources.digest import parse
from coinmesh_sources.inputs import Input
from collector_binance.catalogue import PATH, WEIGHT, Catalogue
from collector_binance.core.encode import Headers
from collector_binance.core.engine import Engine
from meshkit.errors import NotFound, Unavailable


@pytest.fixture
def rest() -> Rest:
    rest = Rest()
    rest.body = exchange_info(entry("ETH"), entry("BTC"), entry("OLD", status="BREAK"))
    return rest


@pytest.fixture
async def catalogue(rest: Rest) -> Catalogue:
    catalogue = Catalogue(rest)  # type: ignore[arg-type]
    await catalogue.refresh()
    return catalogue


async def test_refresh_reads_symbols_and_their_status(catalogue: Catalogue, rest: Rest) -> None:
    assert rest.requests == [(PATH, {}, WEIGHT)]
    assert sorted(catalogue.infos) == ["BTCUSDT", "ETHUSDT", "OLDUSDT"]
    assert catalogue.trading() == ["BTCUSDT", "ETHUSDT"]


async def test_refresh_replaces_what_was_delisted(catalogue: Catalogue, rest: Rest) -> None:
    rest.body = exchange_info(entry("BTC"))
    await catalogue.refresh()
    assert catalogue.trading() == ["BTCUSDT"]
    assert catalogue.inputs("c/0", ["ETHUSDT"]) == []
    with pytest.raises(NotFound):
        catalogue.symbol_of("binance.ETH-USDT")


async def test_changes_are_new_and_delisted_symbols(catalogue: Catalogue, rest: Rest) -> None:
    assert catalogue.changes(["BTCUSDT"]) == (["ETHUSDT"], [])
    assert catalogue.changes(["BTCUSDT"]) == ([], []), "ETHUSDT was removed by an operator"
    rest.body = exchange_info(entry("ETH"), entry("XRP"))
    await catalogue.refresh()
    assert catalogue.changes(["BTCUSDT"]) == (["XRPUSDT"], ["BTCUSDT"])
    assert (catalogue.status("XRPUSDT"), catalogue.status("BTCUSDT")) == ("TRADING", "delisted")


@pytest.mark.parametrize("name", ["binance.BTC-USDT", "BTCUSDT", "btcusdt"])
async def test_symbol_is_returned_for_each_of_its_names(catalogue: Catalogue, name: str) -> None:
    assert catalogue.symbol_of(name) == "BTCUSDT"


@pytest.mark.parametrize("name", ["binance.XRP-USDT", "BTC-USDT", "kraken.BTC-USDT", ""])
async def test_unknown_name_is_not_found(catalogue: Catalogue, name: str) -> None:
    with pytest.raises(NotFound) as exc_info:
        catalogue.symbol_of(name)
    assert exc_info.value.reason == "INSTRUMENT_NOT_FOUND"


async def test_ambiguous_symbol_is_named_by_its_assets(rest: Rest) -> None:
    """The symbol alone would be read as ABC and BTC."""
    rest.body = exchange_info(entry("AB", "CBTC"))
    catalogue = Catalogue(rest)  # type: ignore[arg-type]
    await catalogue.refresh()
    assert catalogue.symbol_of("binance.AB-CBTC") == "ABCBTC"


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ([("REQUEST_WEIGHT", "MINUTE", 1, 1200)], 1200),
        ([("RAW_REQUESTS", "MINUTE", 5, 61_000), ("REQUEST_WEIGHT", "MINUTE", 1, 9000)], 9000),
        ([("REQUEST_WEIGHT", "MINUTE", 5, 1200), ("REQUEST_WEIGHT", "DAY", 1, 1)], 6000),
        ([], 6000),
    ],
)
async def test_weight_limit_follows_the_exchange(
    rest: Rest, limits: list[tuple[str, str, int, int]], expected: int
) -> None:
    names = ("rateLimitType", "interval", "intervalNum", "limit")
    stated = [dict(zip(names, limit, strict=True)) for limit in limits]
    rest.body = exchange_info(entry("BTC"), rateLimits=stated)
    await Catalogue(rest).refresh()  # type: ignore[arg-type]
    assert rest.budget.limit == expected


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html>maintenance</html>"),
        (200, b""),
        (200, b"[]"),
        (200, b'{"symbols":[{"symbol":"BTCUSDT"}]}'),
        (200, b'{"symbols":[{"symbol":"\xff","status":"","baseAsset":"","quoteAsset":""}]}'),
        (200, b'{"symbols":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        (200, exchange_info()),
        (400, exchange_info(entry("XRP"))),
    ],
    ids=["html", "empty", "list", "incomplete", "not-utf8", "nested", "no-symbol", "status"],
)
async def test_unusable_answer_keeps_the_last_catalogue(
    catalogue: Catalogue, rest: Rest, status: int, body: bytes
) -> None:
    rest.status, rest.body = status, body
    with pytest.raises(Unavailable, match="https://exchange/api/v3/exchangeInfo") as exc_info:
        await catalogue.refresh()
    assert exc_info.value.reason == "EXCHANGE_ANSWER"
    assert catalogue.trading() == ["BTCUSDT", "ETHUSDT"]
    assert catalogue.symbol_of("binance.BTC-USDT") == "BTCUSDT"


async def test_inputs_hold_entries_as_received_in_parts(rest: Rest) -> None:
    names = [f"A{number}" for number in range(250)]
    rest.body = exchange_info(*(entry(name) for name in names))
    catalogue = Catalogue(rest)  # type: ignore[arg-type]
    await catalogue.refresh()
    inputs = catalogue.inputs("c/0", [*(f"{name}USDT" for name in names), "NONEUSDT"])
    parts = [json.loads(each.payload)["symbols"] for each in inputs]
    assert [len(part) for part in parts] == [100, 100, 50]
    assert [each for part in parts for each in part] == [entry(name) for name in names]
    assert {(each.connection, each.context, each.status) for each in inputs} == {
        ("c/0", f"GET {PATH}", 200)
    }


async def test_engine_publishes_instruments_of_the_inputs(catalogue: Catalogue) -> None:
    engine = Engine(Headers.offline())
    records = [
        record
        for each in catalogue.inputs("c/0", ["OLDUSDT", "BTCUSDT"])
        for record in engine.apply(each)
    ]
    events = [parse(topic, value) for topic, _, value in records]
    assert [(event.instrument, event.status) for event in events] == [
        ("binance.OLD-USDT", "BREAK"),
        ("binance.BTC-USDT", "TRADING"),
    ]


BROKEN = {"symbol": "BTCUSDT", "status": "BREAK", "baseAsset": 7}


async def test_entry_that_cannot_be_read_keeps_the_last_one(
    catalogue: Catalogue, rest: Rest, caplog: pytest.LogCaptureFixture
) -> None:
    rest.body = exchange_info(BROKEN, {"symbol": "NEWUSDT"}, entry("ETH"), {})
    await catalogue.refresh()
    assert sorted(catalogue.infos) == ["BTCUSDT", "ETHUSDT"]
    assert catalogue.changes(["BTCUSDT", "ETHUSDT"]) == ([], [])
    assert [json.loads(each.payload)["symbols"] for each in catalogue.inputs("c/0", ["BTCUSDT"])]
    assert caplog.text.count("exchangeInfo: ") == 3


def test_engine_publishes_the_entries_beside_unusable_ones() -> None:
    engine = Engine(Headers.offline())
    odd = entry("ODD")
    odd["filters"][0]["stepSize"] = "1e-5"
    body = exchange_info(entry("BTC"), BROKEN, odd, entry("ETH"))
    given = Input(FrameKind.FRAME_KIND_REST, "c/0", 1, body, f"GET {PATH}", 200)
    records = engine.apply(given)
    events = [parse(topic, value) for topic, _, value in records]
    instruments = [event.instrument for event in events if event.type != DEAD]
    assert instruments == ["binance.BTC-USDT", "binance.ETH-USDT"]
    dead = [event for event in events if event.type == DEAD]
    assert [letter.reason for letter in dead] == ["INVALID_MESSAGE", "BAD_NUMBER"]
    assert json.loads(dead[0].value) == BROKEN
    assert len({letter.event_id for letter in dead}) == 2
    assert engine.infos["ODDUSDT"].status == "TRADING"
    assert engine.market("ODDUSDT").encoder.instrument == "binance.ODD-USDT"
    assert len(engine.apply(given)) == 1, "a definition is a dead letter once"
