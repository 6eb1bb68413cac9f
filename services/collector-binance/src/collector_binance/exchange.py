"""Binance's REST API: hosts, weights, refusals, and the requests of the engine.

https://github.com/binance/binance-spot-api-docs/blob/master/rest-api.md#limits: 429 and 418 carry
Retry-After; 418 is a ban, 403 the firewall (also for rate), 451 a location that is not served.
"""

from __future__ import annotations

from typing import Final

from coinmesh_sources.requests import Request
from coinmesh_sources.rest import Budget, Refusal, RestClient, RestPolicy
from collector_binance.core.commands import FetchSnapshot, FetchTrades
from collector_binance.settings import CollectorSettings
from meshkit.metrics import Metrics
from meshkit.tls import client_ssl_context

HISTORY_PATH: Final = "/api/v3/historicalTrades"
"""The only path that the market-data host does not serve."""

DEPTH_PATH: Final = "/api/v3/depth"
DEFAULT_WEIGHT_LIMIT: Final = 6000
DEPTH_WEIGHTS: Final = {100: 5, 500: 25, 1000: 50, 5000: 250}
TRADES_WEIGHT: Final = 25
# Seconds that a request may wait for more urgent ones: subscribers see a stale book, a gap only
# delays late trades, and a first snapshot of one of many books can wait longest.
_STALE_SECONDS, _TRADES_SECONDS, _FIRST_SECONDS = 0.0, 2.0, 10.0
_HINT: Final = "set COINMESH_BINANCE_REST_URL or COINMESH_BINANCE_HISTORY_URL to another host"
_REFUSALS: Final = {
    429: Refusal(5.0, "too many requests"),
    418: Refusal(120.0, "this address is banned temporarily"),
    403: Refusal(60.0, f"rejected by its firewall; {_HINT}", by_host=True),
    451: Refusal(300.0, f"this location is not served; {_HINT}", by_host=True),
}


def rest_client(settings: CollectorSettings, metrics: Metrics) -> RestClient:
    """Return the REST client for the exchange in the settings."""
    policy = RestPolicy(
        "the exchange",
        _REFUSALS,
        headers={"X-MBX-TIME-UNIT": "MICROSECOND"},
        used_header="X-MBX-USED-WEIGHT-1M",
        other_hosts={HISTORY_PATH: settings.history_url},
    )
    context = client_ssl_context(settings) if settings.binance_mtls else None
    return RestClient(
        settings.binance_rest_url, policy, Budget(DEFAULT_WEIGHT_LIMIT), metrics, context
    )


def request(command: FetchSnapshot | FetchTrades, snapshot_limit: int) -> Request:
    """Return the REST request of a command; `snapshot_limit` is the number of levels per side."""
    if isinstance(command, FetchTrades):
        return Request(
            HISTORY_PATH,
            {"symbol": command.symbol, "fromId": command.first_id, "limit": command.limit},
            TRADES_WEIGHT,
            _TRADES_SECONDS,
            lane="history",
        )
    return Request(
        DEPTH_PATH,
        {"symbol": command.symbol, "limit": snapshot_limit},
        DEPTH_WEIGHTS[snapshot_limit],
        _STALE_SECONDS if command.urgent else _FIRST_SECONDS,
        attempt=command.attempt,
        replaces=f"depth {command.symbol}",
    )
