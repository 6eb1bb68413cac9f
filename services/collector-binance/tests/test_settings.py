"""Settings: which host serves what."""

import pytest

from collector_binance.settings import CollectorSettings


@pytest.mark.parametrize(
    ("environment", "history"),
    [
        ({}, "https://api.binance.com"),
        ({"REST_URL": "https://data-api.binance.vision/"}, "https://api.binance.com"),
        ({"REST_URL": "https://api-gcp.binance.com"}, "https://api-gcp.binance.com"),
        ({"REST_URL": "http://127.0.0.1:9"}, "http://127.0.0.1:9"),
        ({"HISTORY_URL": "https://api2.binance.com"}, "https://api2.binance.com"),
    ],
)
def test_history_host_is_one_that_serves_historical_trades(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], history: str
) -> None:
    """https://github.com/binance/binance-spot-api-docs/blob/master/faqs/market_data_only.md"""
    for name, value in environment.items():
        monkeypatch.setenv(f"COINMESH_BINANCE_{name}", value)
    monkeypatch.setenv("COINMESH_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092")
    monkeypatch.setenv("COINMESH_SCHEMA_REGISTRY_URL", "http://127.0.0.1:8081")
    assert CollectorSettings().history_url == history  # type: ignore[call-arg]
