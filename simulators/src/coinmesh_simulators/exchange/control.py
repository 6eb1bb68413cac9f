"""Control messages: SUBSCRIBE, UNSUBSCRIBE, LIST_SUBSCRIPTIONS, SET_PROPERTY, GET_PROPERTY.

Rules and error texts: web-socket-streams.md, "Live Subscribing/Unsubscribing to streams".
Undocumented behaviour was observed by clients: any stream name is acknowledged and then silent
(JKorf/Binance.Net #620), too many streams are error 4
(LUCIT-Systems-and-Development/unicorn-binance-websocket-api #17), a message that is too long is
ignored (altangent/ccxws#161).
"""

import json
import re

from coinmesh_simulators.exchange.bars import INTERVALS
from coinmesh_simulators.exchange.hub import Hub, Subscriber
from coinmesh_simulators.exchange.settings import SimulatorSettings

_METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")
_STREAM = re.compile(
    r"^[^@!\s/]+@(trade|aggTrade|bookTicker|miniTicker|ticker|ticker_(1h|4h|1d)|avgPrice"
    r"|blockTrade|referencePrice|depth(5|10|20)?(@1?000?ms)?"
    rf"|kline_({'|'.join(INTERVALS)})(@[+-]\d\d:\d\d)?)$|^!(miniTicker|ticker_(1h|4h|1d))@arr$"
)
_ID = re.compile(r"^[A-Za-z0-9_-]{0,36}$")
_TOO_MANY = 4


class _InvalidRequest(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def canonical(stream: str) -> str:
    """Return a stream's published name: `@depth@1000ms` is `@depth`."""
    return stream.removesuffix("@1000ms")


class Control:
    """Process the control messages of all connections."""

    def __init__(self, hub: Hub, settings: SimulatorSettings) -> None:
        self._hub = hub
        self._faults = hub.faults
        self._settings = settings

    def subscribe(self, connection: Subscriber, streams: list[str]) -> None:
        """Add streams to a connection; its existing ones are unchanged."""
        added = [stream for stream in streams if stream not in connection.streams]
        connection.streams.update(dict.fromkeys(added))
        self._hub.subscribe(connection, added)

    def answer(self, connection: Subscriber, text: str | bytes) -> dict[str, object] | None:
        """Return the response to a control message; None when the message is ignored."""
        limit = self._settings.control_bytes
        if limit and len(text) > limit:
            return None
        identity: object = None
        try:
            try:
                request = json.loads(text)
            except (ValueError, RecursionError) as error:
                line, column = getattr(error, "lineno", 1), getattr(error, "colno", 1)
                raise _InvalidRequest(
                    3, f"Invalid JSON: expected value at line {line} column {column}"
                ) from error
            if not isinstance(request, dict):
                raise _InvalidRequest(2, "Invalid request: expected an object")
            if self._faults.active and self._faults.unanswered(_names(request)):
                return None
            identity = _identity(request)
            return {"result": self._execute(connection, request), "id": identity}
        except _InvalidRequest as error:
            return self._error(error.code, str(error), identity)

    def _error(self, code: int, message: str, identity: object) -> dict[str, object]:
        """Return the error as documented (flat, an id for code 0 only); error 4 is nested."""
        if not self._settings.flat_errors or code == _TOO_MANY:
            return {"error": {"code": code, "msg": message}, "id": identity}
        answer: dict[str, object] = {"code": code, "msg": message}
        return answer | {"id": identity} if code == 0 else answer

    def _execute(self, connection: Subscriber, request: dict[str, object]) -> object:
        method = request.get("method")
        if method is None:
            raise _InvalidRequest(2, "Invalid request: missing field `method` at line 1 column 1")
        if method not in _METHODS:
            expected = ", ".join(f"`{name}`" for name in _METHODS)
            raise _InvalidRequest(
                2, f"Invalid request: unknown variant `{method}`, expected one of {expected}"
            )
        if request.keys() - {"method", "params", "id"}:
            raise _InvalidRequest(2, "Invalid request: too many parameters")
        params = request.get("params") or []
        if not isinstance(params, list):
            raise _InvalidRequest(2, "Invalid request: params must be an array")
        if method == "LIST_SUBSCRIPTIONS":
            return list(connection.streams)
        if method in ("SET_PROPERTY", "GET_PROPERTY"):
            return self._property(connection, params, change=method == "SET_PROPERTY")
        streams = list(dict.fromkeys(canonical(name) for name in params if isinstance(name, str)))
        if len(params) == 0 or not all(isinstance(name, str) for name in params):
            raise _InvalidRequest(2, "Invalid request: params must be stream names")
        if self._settings.permissive and not all(_STREAM.match(stream) for stream in streams):
            raise _InvalidRequest(2, "Invalid request: invalid stream")
        if method == "UNSUBSCRIBE":
            gone = [stream for stream in streams if stream in connection.streams]
            for stream in gone:
                del connection.streams[stream]
            self._hub.unsubscribe(connection, gone)
            return None
        if len(connection.streams.keys() | set(streams)) > self._settings.streams_per_connection:
            raise _InvalidRequest(_TOO_MANY, "Too many subscriptions")
        self.subscribe(connection, streams)
        return None

    def _property(self, connection: Subscriber, params: list[object], *, change: bool) -> object:
        if not params or not isinstance(params[0], str):
            raise _InvalidRequest(2, "Invalid request: property name must be a string")
        if params[0] != "combined":
            raise _InvalidRequest(0, "Unknown property")
        if len(params) > (2 if change else 1):
            raise _InvalidRequest(2, "Invalid request: too many parameters")
        if not change:
            return connection.combined
        if len(params) < 2 or not isinstance(params[1], bool):
            raise _InvalidRequest(1, "Invalid value type: expected Boolean")
        self._hub.unsubscribe(connection, connection.streams)
        connection.combined = params[1]
        self._hub.subscribe(connection, connection.streams)
        return None


def _names(request: dict[str, object]) -> list[str]:
    params = request.get("params")
    return [str(name) for name in params] if isinstance(params, list) else []


def _identity(request: dict[str, object]) -> object:
    identity = request.get("id")
    fits = identity is None or (
        (isinstance(identity, int) and not isinstance(identity, bool) and abs(identity) < 1 << 63)
        or (isinstance(identity, str) and _ID.match(identity) is not None)
    )
    if not fits:
        raise _InvalidRequest(2, "Invalid request: request ID must be an unsigned integer")
    return identity
