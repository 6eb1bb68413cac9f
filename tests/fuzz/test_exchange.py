"""What an exchange sends, and captures of it: nothing stops the collector."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inputs import FUZZ, bodies, damaged

from coinmesh_contracts.events.v1.frame_batch_pb2 import FrameKind
from coinmesh_sources.inputs import Input
from collector_binance.capture import CaptureError, read_text
from collector_binance.core.commands import ControlReply
from collector_binance.core.encode import Headers
from collector_binance.core.messages import read_reply
from collector_binance.testing import BEGIN_NS, Book, CaptureTwins, past_trade, trade

LINK = "binance/test/1"
TRADE = json.loads(trade(5))
DEPTH = json.loads(Book().change([(True, 5, 5)]))
SNAPSHOT = json.loads(Book().snapshot())
INFO = {
    "symbols": [
        {
            "symbol": "BTCUSDT",
            "status": "TRADING",
            "baseAsset": "BTC",
            "quoteAsset": "USDT",
            "filters": [
                {"filterType": "PRICE_FILTER", "tickSize": "0.01000000"},
                {"filterType": "LOT_SIZE", "stepSize": "0.00001000"},
            ],
        }
    ]
}
REST = {
    "GET /api/v3/exchangeInfo": bodies(INFO),
    "GET /api/v3/depth?symbol=BTCUSDT&limit=1000": bodies(SNAPSHOT),
    "GET /api/v3/historicalTrades?symbol=BTCUSDT&fromId=2": bodies([past_trade(2)]),
}


@FUZZ
@given(st.lists(bodies(TRADE, DEPTH), max_size=5))
def test_websocket_frames(frames: list[bytes]) -> None:
    engine = CaptureTwins(Headers.offline())
    engine.process(trade(1), BEGIN_NS, LINK)
    for number, frame in enumerate(frames):
        engine.process(frame, BEGIN_NS + number, LINK)
    assert engine.process(trade(2**40), BEGIN_NS + 9, LINK)


REPLY = {"result": None, "id": 1, "code": -1, "msg": "no", "error": {"code": 2, "msg": "no"}}


@FUZZ
@given(bodies(REPLY))
def test_answers_to_control_messages(frame: bytes) -> None:
    engine = CaptureTwins(Headers.offline())
    engine.process(frame, BEGIN_NS, LINK)
    for command in engine.commands:
        if isinstance(command, ControlReply):
            reply = read_reply(command.frame)
            assert reply is None or isinstance(reply.id, int | str | None)


@FUZZ
@given(
    st.lists(
        st.sampled_from(sorted(REST)).flatmap(
            lambda context: st.tuples(
                st.just(context), REST[context], st.sampled_from([200, 400, 503])
            )
        ),
        max_size=4,
    )
)
def test_rest_bodies(answers: list[tuple[str, bytes, int]]) -> None:
    engine = CaptureTwins(Headers.offline())
    engine.process(trade(1), BEGIN_NS, LINK)
    engine.process(trade(9), BEGIN_NS + 1, LINK)
    for context, body, status in answers:
        kind = FrameKind.FRAME_KIND_REST
        engine.apply(Input(kind, "rest", BEGIN_NS + 2, body, context, status))
    assert engine.process(trade(2**40), BEGIN_NS + 9, LINK)


LINES = b"%d %s\n%d %s\n" % (BEGIN_NS, trade(1), BEGIN_NS + 1, trade(2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("captures")


@FUZZ
@given(damaged(LINES) | damaged(gzip.compress(LINES, mtime=0)) | st.binary(max_size=60))
def test_captures(folder: Path, data: bytes) -> None:
    path = folder / "capture"
    path.write_bytes(data)
    engine = CaptureTwins(Headers.offline())
    try:
        for _, given_input in read_text(path):
            engine.apply(given_input)
    except CaptureError as error:
        assert str(path) in str(error)
