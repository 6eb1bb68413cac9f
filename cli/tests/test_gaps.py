"""`coinmesh gaps` with a topic and a REST listener of the test's own."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from coinmesh_cli import gaps
from coinmesh_cli.main import app
from coinmesh_contracts import framing, topics
from coinmesh_contracts.events.v1 import gap_pb2 as pb
from meshkit.errors import (
    FailedPrecondition,
    MeshError,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)

RECEIVED_NS = 1_723_075_200_000_000_000
Command = Callable[..., Result]


class Message:
    """A record of the gap topic."""

    def __init__(self, value: bytes | None) -> None:
        self._value = value

    def value(self) -> bytes | None:
        return self._value

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return 17


class Mesh:
    """The gap topic's records, and the answers of the REST listener."""

    def __init__(self) -> None:
        self.values: list[bytes | None] = []
        self.requests: list[tuple[str, str, Any]] = []
        self.answer: httpx.Response | Exception = httpx.Response(200, json={})
        self.closed = 0

    def put(self, *records: pb.Gap) -> None:
        self.values += [framing.header(1) + record.SerializeToString() for record in records]

    # As `TopicReader`.

    def __call__(self, settings: object, topic: str) -> "Mesh":
        assert topic == topics.GAPS.name
        return self

    def existing(self) -> Iterator[Message]:
        yield from map(Message, self.values)

    def close(self) -> None:
        self.closed += 1

    # As the REST listener.

    def client(self, _: object) -> httpx.Client:
        return httpx.Client(base_url="https://mesh", transport=httpx.MockTransport(self._serve))

    def _serve(self, request: httpx.Request) -> httpx.Response:
        self.requests.append((request.method, request.url.path, json.loads(request.content)))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def mesh(monkeypatch: pytest.MonkeyPatch) -> Mesh:
    mesh = Mesh()
    monkeypatch.setattr(gaps, "settings_of", lambda _: None)
    monkeypatch.setattr(gaps, "TopicReader", mesh)
    monkeypatch.setattr(gaps.Mesh, "recorded", lambda _: None)
    monkeypatch.setattr(gaps, "http_client", mesh.client)
    return mesh


@pytest.fixture
def command(mesh: Mesh) -> Command:
    """Runs `coinmesh gaps …`."""

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["gaps", *arguments])

    return run


def gap(number: int, state: pb.GapState.ValueType, revision: int = 1, **more: Any) -> pb.Gap:
    event = pb.Gap(
        gap_id=f"gap-{number}",
        source="binance",
        instrument="binance.BTC-USDT",
        channel="trade",
        receive_time=RECEIVED_NS + number * 10**9,
        revision=revision,
        state=state,
        cause=pb.GAP_CAUSE_STALL,
        detail=f"revision {revision}",
        **more,
    )
    event.ids.first, event.ids.last = 10 * number, 10 * number + 4
    return event


def problem(status: int, reason: str, message: str) -> httpx.Response:
    body = {"code": 1, "message": message, "details": [{"reason": reason}]}
    return httpx.Response(status, json=body)


def test_list_shows_the_highest_revision_of_each_gap(mesh: Mesh, command: Command) -> None:
    mesh.put(
        gap(2, pb.GAP_STATE_OPEN),
        gap(1, pb.GAP_STATE_OPEN, 1),
        gap(1, pb.GAP_STATE_REPAIRED, 3),
        gap(1, pb.GAP_STATE_OPEN, 2),
    )
    result = command("list")
    assert result.exit_code == 0, result.output
    first, second, total = result.stdout.splitlines()
    assert first.split() == (
        "2024-08-08T00:00:01.000Z repaired stall gap-1 ids 10 to 14 revision 3".split()
    )
    assert second.split()[1:4] == ["open", "stall", "gap-2"]
    assert total == "2 gaps"
    assert mesh.closed == 1


def test_list_open_omits_closed_and_given_up_gaps(mesh: Mesh, command: Command) -> None:
    mesh.put(
        gap(1, pb.GAP_STATE_REPAIRED),
        gap(2, pb.GAP_STATE_UNREPAIRABLE),
        gap(3, pb.GAP_STATE_OPEN, repaired_count=2, failed_attempts=5),
        gap(4, pb.GAP_STATE_RESYNCED),
    )
    (line,) = command("list", "--open", "--json").stdout.splitlines()
    assert json.loads(line) == {
        "gap_id": "gap-3",
        "time": "2024-08-08T00:00:03.000Z",
        "source": "binance",
        "instrument": "binance.BTC-USDT",
        "channel": "trade",
        "state": "open",
        "cause": "stall",
        "span": "ids 30 to 34",
        "repaired": 2,
        "failed_attempts": 5,
        "revision": 1,
        "detail": "revision 1",
    }
    assert command("list", "--open").stdout.splitlines()[-1] == "1 open gap"


def test_list_skips_records_that_are_no_gaps(mesh: Mesh, command: Command) -> None:
    mesh.values = [None, b"no gap", framing.header(1) + b"\xff"]
    mesh.put(gap(1, pb.GAP_STATE_OPEN))
    result = command("list")
    assert result.stdout.splitlines()[-1] == "1 gap"
    assert result.stderr.count("0:17 is not a gap") == 3


def test_list_shows_every_kind_of_span(mesh: Mesh, command: Command) -> None:
    kinds = [pb.Gap(gap_id=name, state=pb.GAP_STATE_OPEN, receive_time=1) for name in "abcd"]
    kinds[0].blocks.first, kinds[0].blocks.last = 5, 6
    kinds[1].time.start, kinds[1].time.end = 0, 1_500_000
    kinds[2].cursor.until = "x"
    mesh.put(*kinds)
    spans = [json.loads(line)["span"] for line in command("list", "--json").stdout.splitlines()]
    assert spans == [
        "blocks 5 to 6",
        "1970-01-01T00:00:00.000Z to 1970-01-01T00:00:01.500Z",
        "cursors '' to 'x'",
        "",
    ]


def test_empty_topic_lists_no_gaps(command: Command) -> None:
    assert command("list").stdout == "0 gaps\n"


@pytest.mark.parametrize("state", [pb.GAP_STATE_OPEN, pb.GAP_STATE_UNREPAIRABLE])
def test_retry_calls_the_collector_of_the_gap(
    mesh: Mesh, command: Command, state: pb.GapState.ValueType
) -> None:
    mesh.put(gap(1, state))
    result = command("retry", "gap-1")
    assert (result.exit_code, "gap-1: repair requested" in result.stdout) == (0, True)
    assert mesh.requests == [("POST", "/v1/collectors/binance:retryGap", {"gapId": "gap-1"})]


def test_retry_of_an_unknown_gap_is_rejected(mesh: Mesh, command: Command) -> None:
    mesh.put(gap(1, pb.GAP_STATE_OPEN))
    error = command("retry", "gap-9").exception
    assert isinstance(error, NotFound)
    assert "there is no gap 'gap-9'; see `coinmesh gaps list`" in str(error)
    assert mesh.requests == []


@pytest.mark.parametrize(
    ("state", "word"),
    [(pb.GAP_STATE_REPAIRED, "repaired"), (pb.GAP_STATE_RESYNCED, "resynced")],
)
def test_retry_of_a_closed_gap_is_rejected(
    mesh: Mesh, command: Command, state: pb.GapState.ValueType, word: str
) -> None:
    mesh.put(gap(1, pb.GAP_STATE_OPEN, 1), gap(1, state, 2))
    error = command("retry", "gap-1").exception
    assert isinstance(error, FailedPrecondition)
    assert f"gap-1 is {word} already" in str(error)
    assert mesh.requests == []


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (
            problem(404, "GAP_NOT_FOUND", "no gap 'gap-1' is open or was given up"),
            NotFound,
            "no gap 'gap-1' is open",
        ),
        (problem(404, "UNKNOWN_PATH", "nothing"), NotFound, "the mesh has no collector 'binance'"),
        (
            problem(503, "BACKEND_UNAVAILABLE", "try again"),
            Unavailable,
            "collector 'binance' is not running; see `coinmesh status`",
        ),
        (
            problem(503, "COLLECTOR_STARTING", "the collector waits for Kafka"),
            Unavailable,
            "the collector waits for Kafka",
        ),
        (
            problem(403, "ROLE_REQUIRED", "RetryGap needs the role editor"),
            PermissionDenied,
            "RetryGap needs the role editor",
        ),
        (problem(401, "KEY_INVALID", "the key isn't valid"), Unauthenticated, "isn't valid"),
        (httpx.Response(502, text="<html>"), Unavailable, "answered 502"),
        (httpx.Response(500, json=[]), Unavailable, "answered 500"),
        (httpx.ConnectError("refused"), Unavailable, "https://mesh is unreachable (refused)"),
        (httpx.ReadTimeout("too late"), Unavailable, "is unreachable (too late)"),
    ],
)
def test_refused_retry_is_explained(
    mesh: Mesh,
    command: Command,
    answer: httpx.Response | Exception,
    kind: type[MeshError],
    message: str,
) -> None:
    mesh.put(gap(1, pb.GAP_STATE_OPEN))
    mesh.answer = answer
    result = command("retry", "gap-1")
    assert type(result.exception) is kind
    assert message in str(result.exception)
    assert result.stdout == ""
