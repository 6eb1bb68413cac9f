"""What a client may send to the simulated exchange: it answers with the exchange's own errors."""

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from inputs import FUZZ, bodies
from multidict import CIMultiDict, MultiDict
from pydantic import ValidationError

from coinmesh_simulators.exchange.control import Control
from coinmesh_simulators.exchange.faults import FaultRequest
from coinmesh_simulators.exchange.parameters import ApiError, Query
from coinmesh_simulators.exchange.settings import SimulatorSettings
from coinmesh_simulators.testing import Bench

CONTROL = {"method": "SUBSCRIBE", "params": ["btcusdt@trade"], "id": 1}
FAULT = {"kind": "drop", "symbol": "BTCUSDT", "count": 1}


class Client:
    """A connection as the hub sees it."""

    def __init__(self) -> None:
        self.streams: dict[str, None] = {}
        self.combined, self.micro = True, False


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("exchange"), "BTCUSDT", 1)
    yield bench
    bench.store.close()


@FUZZ
@example([json.dumps(CONTROL).encode()])
@given(st.lists(bodies(CONTROL), max_size=4))
def test_control_messages(exchange: Any, messages: list[bytes]) -> None:
    control = Control(exchange.hub, SimulatorSettings())
    connection: Any = Client()
    for message in messages:
        answer = control.answer(connection, message)
        assert answer is None or json.dumps(answer)
        assert answer is None or len(answer.keys() & {"result", "error", "code"}) == 1
    exchange.hub.unsubscribe(connection, list(connection.streams))


VALUE = st.text(max_size=24) | st.sampled_from(["-1", "1e3", "٣", "9" * 25, "0"])


@FUZZ
@given(st.lists(st.tuples(st.sampled_from(["symbol", "limit", "startTime", "x"]), VALUE)), VALUE)
def test_rest_parameters(exchange: Any, pairs: list[tuple[str, str]], unit: str) -> None:
    headers = CIMultiDict({"X-MBX-TIME-UNIT": unit})
    request: Any = SimpleNamespace(query=MultiDict(pairs), headers=headers)
    try:
        query = Query(exchange, request, frozenset({"symbol", "limit", "startTime", "endTime"}))
        assert query.limit(500, 1000) <= 1000
        query.times()
        query.market()
    except ApiError as error:
        assert error.code < 0


@FUZZ
@given(bodies(FAULT))
def test_faults(body: bytes) -> None:
    try:
        FaultRequest.model_validate_json(body)
    except ValidationError as error:
        assert error.errors()
