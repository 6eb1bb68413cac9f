"""Host profiles: the endpoints of each host documented by the venue.

Sources, all in https://github.com/binance/binance-spot-api-docs: rest-api.md ("General API
Information"), web-socket-streams.md ("General WSS information"), faqs/market_data_only.md.
"""

import re
from dataclasses import dataclass

from aiohttp import web

_MARKET_DATA_ONLY = frozenset(
    "aggTrades avgPrice depth exchangeInfo klines ping ticker ticker/24hr ticker/bookTicker "
    "ticker/price time trades uiKlines".split()
)
_SPOT = _MARKET_DATA_ONLY | frozenset(
    "executionRules historicalBlockTrades historicalTrades referencePrice ticker/tradingDay".split()
)


@dataclass(frozen=True, slots=True)
class HostProfile:
    """The endpoints of one host: `routes` below `/api/v3/`, and WebSocket streams or not.

    `failing` is the share of its REST requests that fail with a 5xx.
    """

    host: str
    routes: frozenset[str] = frozenset()
    streams: bool = False
    failing: float = 0.0


#: For requests to no documented host: the venue's main hosts for REST and streams in one.
LOCAL = HostProfile("", _SPOT, streams=True)
#: Permissive mode: every host serves everything.
EVERYTHING = HostProfile("*", _SPOT, streams=True)

HOSTS: dict[str, HostProfile] = {
    profile.host: profile
    for profile in (
        HostProfile("api.binance.com", _SPOT),
        HostProfile("api-gcp.binance.com", _SPOT),
        # "may provide better performance but have less stability"; the share is an estimate.
        *(HostProfile(f"api{number}.binance.com", _SPOT, failing=0.02) for number in range(1, 5)),
        HostProfile("data-api.binance.vision", _MARKET_DATA_ONLY),
        HostProfile("stream.binance.com", streams=True),
        HostProfile("data-stream.binance.vision", streams=True),
    )
}

_PREFIX = "/{host:" + "|".join(re.escape(host) for host in HOSTS) + "}"


def paths(path: str) -> tuple[str, str]:
    """Return the router's patterns for a path: plain, and below a documented host's name."""
    return path, _PREFIX + path


def profile_of(request: web.Request, *, permissive: bool) -> HostProfile:
    """Return the profile of the host in the path's first segment, or in the Host header."""
    if permissive:
        return EVERYTHING
    named = request.match_info.get("host") or request.host.partition(":")[0].lower()
    return HOSTS.get(named, LOCAL)
