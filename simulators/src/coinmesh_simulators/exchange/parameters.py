"""The parameters of a REST request, validated like the venue does, with its error codes."""

import re

from aiohttp import web

from coinmesh_simulators.exchange.exchange import Exchange
from coinmesh_simulators.exchange.market import SymbolMarket, SymbolStatus

_LARGEST = (1 << 63) - 1
_INTEGER = re.compile(r"[0-9]{1,20}", re.ASCII)
_SYMBOL = re.compile(r"(?:[A-Z0-9\-._]|[^\x00-\x7f]){1,50}")


class ApiError(Exception):
    """An error in the venue's format: `{"code": …, "msg": …}`."""

    def __init__(self, code: int, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class Query:
    """The validated parameters of one request.

    The order of the checks is that of recorded responses: duplicates, too many, characters,
    mandatory ones, and last unknown ones (`check_read`).
    """

    def __init__(
        self,
        exchange: Exchange,
        request: web.Request,
        names: frozenset[str],
        path: str = "",
        host: str = "",
    ) -> None:
        """Check duplicates and counts; faults select requests by `path` and `host`."""
        self.path = path
        self.host = host
        self._exchange = exchange
        self._names = names
        self._values = request.query
        unit = request.headers.get("X-MBX-TIME-UNIT", "").upper()
        if unit not in ("", "MILLISECOND", "MICROSECOND"):
            raise ApiError(
                -1194, "Invalid value for time unit; expected either MICROSECOND or MILLISECOND."
            )
        self.per_unit = 1 if unit == "MICROSECOND" else 1000
        if len(set(self._values)) != len(self._values):
            raise ApiError(-1101, "Duplicate values for a parameter detected.")
        if len(self._values) > len(names):
            raise ApiError(
                -1101,
                f"Too many parameters; expected '{len(names)}' and received '{len(self._values)}'.",
            )
        for name, value in self._values.items():
            if name in names and not value:
                raise ApiError(-1105, f"Parameter '{name}' was empty.")

    def check_read(self) -> None:
        """Reject parameters that the endpoint doesn't have."""
        sent = len(self._values)
        read = len(self._names & set(self._values))
        if read != sent:
            raise ApiError(
                -1104,
                f"Not all sent parameters were read; read '{read}' parameter(s) "
                f"but was sent '{sent}'.",
            )

    def text(self, name: str) -> str | None:
        """Return an optional parameter."""
        return self._values.get(name)

    def mandatory(self, name: str) -> str:
        """Return a mandatory parameter."""
        value = self._values.get(name)
        if value is None:
            raise ApiError(
                -1102,
                f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.",
            )
        return value

    def market(self) -> SymbolMarket:
        """Return the market of the mandatory parameter `symbol`, in the requested status."""
        market = self.market_of(self.mandatory("symbol"))
        if self.status() not in (None, market.status):
            raise ApiError(-1220, "The symbol's status does not match the requested symbolStatus.")
        return market

    def market_of(self, symbol: str) -> SymbolMarket:
        """Return a symbol's market."""
        if not _SYMBOL.fullmatch(symbol):
            raise ApiError(
                -1100,
                "Illegal characters found in parameter 'symbol'; "
                r"legal range is '^[\w\-._&&[^a-z]]{1,50}$'.",
            )
        market = self._exchange.markets.get(symbol)
        if market is None:
            raise ApiError(-1121, "Invalid symbol.")
        return market

    def status(self) -> SymbolStatus | None:
        """Return the optional parameter `symbolStatus`."""
        value = self._values.get("symbolStatus")
        if value is None:
            return None
        try:
            return SymbolStatus(value)
        except ValueError as error:
            raise ApiError(-1122, "Invalid symbolStatus.") from error

    def integer(self, name: str) -> int | None:
        """Return an optional integer."""
        value = self._values.get(name)
        if value is None:
            return None
        if not _INTEGER.fullmatch(value):
            raise ApiError(
                -1100,
                f"Illegal characters found in parameter '{name}'; "
                "legal range is '^[0-9]{1,20}$'.",
            )
        if int(value) > _LARGEST:
            raise ApiError(-1108, f"Parameter '{name}' overflowed.")
        return int(value)

    def limit(self, default: int, most: int) -> int:
        """Return the parameter `limit`, at most `most`."""
        value = self.integer("limit")
        if value == 0:
            raise ApiError(-1130, "Data sent for parameter 'limit' is not valid.")
        return min(default if value is None else value, most)

    def times(self) -> tuple[int | None, int | None]:
        """Return `startTime` and `endTime` (inclusive) in µs, whichever unit they were sent in."""
        start, end = self.integer("startTime"), self.integer("endTime")
        if start is not None and start < 10**14:
            start *= 1000
        if end is not None:
            end = end * 1000 + 999 if end < 10**14 else end
        return start, end
