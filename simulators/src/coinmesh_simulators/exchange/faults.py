"""Fault injection: kinds of faults, their streams or paths, count and duration."""

import random
import time
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from coinmesh_simulators.exchange.refusals import Body


class Kind(StrEnum):
    """The effect of a fault; the README lists them with their parameters."""

    DROP = "drop"
    DUPLICATE = "duplicate"
    REORDER = "reorder"
    DELAY = "delay"
    MALFORMED = "malformed"
    STALL = "stall"
    SKEW = "skew"
    UNANSWERED = "unanswered"
    DISCONNECT = "disconnect"
    SERVER_SHUTDOWN = "server_shutdown"
    RATE_LIMIT = "rate_limit"
    BAN = "ban"
    STATUS = "status"
    TIMEOUT = "timeout"
    SLOW = "slow"
    RESET = "reset"
    TRUNCATE = "truncate"
    HALF_BODY = "half_body"
    EMPTY_LIST = "empty_list"
    STALE_SNAPSHOT = "stale_snapshot"
    HISTORY_LAG = "history_lag"
    HISTORY_FLOOR = "history_floor"
    VOID_AGGREGATE = "void_aggregate"


FRAME_KINDS = (Kind.DROP, Kind.DUPLICATE, Kind.REORDER, Kind.DELAY, Kind.MALFORMED)
#: Faults of a whole REST response, whatever the route.
ANSWER_KINDS = (
    Kind.RATE_LIMIT,
    Kind.BAN,
    Kind.STATUS,
    Kind.TIMEOUT,
    Kind.SLOW,
    Kind.RESET,
    Kind.TRUNCATE,
    Kind.HALF_BODY,
    Kind.EMPTY_LIST,
)
#: Those of them that reject a request; also a WebSocket handshake if a fault's `path` names it.
REFUSING_KINDS = (Kind.RATE_LIMIT, Kind.BAN, Kind.STATUS, Kind.TIMEOUT, Kind.RESET)
_CONNECTION_KINDS = (Kind.STALL, Kind.SKEW)


class FaultRequest(BaseModel):
    """The body of `POST /admin/faults`.

    `stream`, `path` and `host` are shell patterns; `symbol` a venue symbol. A fault ends after
    `count` effects or `duration_s` wall seconds, whichever comes first; `probability` (with `seed`)
    applies it to a random share. `skip` lets that many matching frames or requests pass first.
    """

    model_config = ConfigDict(extra="forbid")

    kind: Kind
    symbol: str = "*"
    stream: str = "*"
    path: str = "/api/*"
    host: str = "*"
    count: Annotated[int, Field(ge=1)] | None = None
    duration_s: Annotated[float, Field(gt=0)] | None = None
    probability: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: int = 0
    skip: Annotated[int, Field(ge=0)] = 0
    delay_ms: Annotated[float, Field(ge=0, le=600_000)] = 200.0
    retry_after_s: Annotated[int, Field(ge=0, le=259_200)] = 5
    grace_s: Annotated[float, Field(ge=0, le=600)] = 1.0
    close_code: Annotated[int, Field(ge=1000, le=4999)] | None = None
    status: Annotated[int, Field(ge=400, le=599)] = 503
    body: Body | None = None
    code: int | None = None
    floor_id: Annotated[int, Field(ge=0)] = 0


class Fault:
    """An active fault with its counters."""

    def __init__(self, number: int, request: FaultRequest) -> None:
        self.number = number
        self.request = request
        self.matched = 0
        self.applied = 0
        self._random = random.Random(request.seed)
        seconds = request.duration_s
        self._finished = False
        self._deadline = time.monotonic() + seconds if seconds is not None else None

    @property
    def over(self) -> bool:
        """Return whether its count or duration is used up."""
        if self._finished:
            return True
        if self.request.count is not None and self.applied >= self.request.count:
            return True
        return self._deadline is not None and time.monotonic() >= self._deadline

    def covers(self, stream: str) -> bool:
        """Return whether its filters match a stream."""
        symbol, _, _ = stream.partition("@")
        request = self.request
        return (request.symbol == "*" or request.symbol.lower() == symbol) and fnmatchcase(
            stream, request.stream
        )

    def strikes(self) -> bool:
        """Count a match; return whether the fault takes effect on it."""
        if self.over:
            return False
        self.matched += 1
        if self.matched <= self.request.skip or self._random.random() >= self.request.probability:
            return False
        self.applied += 1
        return True

    def struck(self) -> None:
        """Finish a fault of connections that has no count or duration: it is not repeated."""
        self._finished = self.request.count is None and self.request.duration_s is None

    def report(self) -> dict[str, object]:
        """Return the fault in the format of `GET /admin/faults`."""
        return {
            "id": self.number,
            **self.request.model_dump(),
            "matched": self.matched,
            "applied": self.applied,
            "over": self.over,
        }


class Faults:
    """All faults requested since the last clearing."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._numbers = 0
        self.active = False
        self.holding = False  # a fault that holds back whole connections is requested

    def add(self, request: FaultRequest) -> Fault:
        """Activate a fault."""
        self._numbers += 1
        fault = Fault(self._numbers, request)
        self._faults.append(fault)
        self.active = True
        self.holding = self.holding or request.kind in _CONNECTION_KINDS
        return fault

    def clear(self, number: int | None = None) -> int:
        """End one fault, or all; return the number of ended faults."""
        before = len(self._faults)
        self._faults = [
            fault for fault in self._faults if number is not None and fault.number != number
        ]
        self.active = bool(self._faults)
        self.holding = any(fault.request.kind in _CONNECTION_KINDS for fault in self._faults)
        return before - len(self._faults)

    def report(self) -> list[dict[str, object]]:
        """Return all faults with their counters."""
        return [fault.report() for fault in self._faults]

    def fates(self, stream: str) -> dict[str, float]:
        """Return the effects on a stream's next frame: kind to delay in seconds (0 if none)."""
        return {
            fault.request.kind.value: fault.request.delay_ms / 1000
            for fault in self._faults
            if fault.request.kind in FRAME_KINDS and fault.covers(stream) and fault.strikes()
        }

    def stalls(self, streams: dict[str, None]) -> bool:
        """Return whether a connection with these streams receives nothing at present."""
        return self._covering(Kind.STALL, streams) is not None

    def skew(self, streams: dict[str, None]) -> float:
        """Return the delay in seconds for every second connection with these streams."""
        fault = self._covering(Kind.SKEW, streams)
        return fault.request.delay_ms / 1000 if fault is not None else 0.0

    def unanswered(self, streams: list[str]) -> bool:
        """Return whether a control message with these streams gets no response."""
        return any(
            fault.request.kind is Kind.UNANSWERED
            and (fault.covers("*") or any(fault.covers(stream) for stream in streams))
            and fault.strikes()
            for fault in self._faults
        )

    def _covering(self, kind: Kind, streams: dict[str, None]) -> Fault | None:
        """Return the active fault of a kind that covers one of the streams."""
        for fault in self._faults:
            if fault.request.kind is not kind or fault.over:
                continue
            if any(fault.covers(stream) for stream in streams):
                fault.matched += 1
                return fault
        return None

    def repeating(self) -> list[Fault]:
        """Return disconnect faults that are not over."""
        return [
            fault
            for fault in self._faults
            if fault.request.kind is Kind.DISCONNECT and not fault.over
        ]

    def request_fault(
        self, kinds: tuple[Kind, ...], path: str, symbol: str = "*", host: str = ""
    ) -> Fault | None:
        """Return the fault that affects a request, if any; `path` is without a host's name."""
        for fault in self._faults:
            request = fault.request
            fits = (
                request.kind in kinds
                and request.symbol in ("*", symbol)
                and fnmatchcase(path, request.path)
                and fnmatchcase(host, request.host)
            )
            if fits and fault.strikes():
                return fault
        return None
