"""The command of the certificate agent: plaintext metrics on loopback only."""

import pytest

from coinmesh_access.certificate_commands import serve_metrics
from meshkit.metrics import Metrics
from meshkit.settings import SettingsError


def test_plaintext_metrics_beyond_loopback_are_rejected() -> None:
    with pytest.raises(SettingsError, match=r"refusing to serve metrics on 0\.0\.0\.0"):
        serve_metrics("0.0.0.0:0", Metrics(), None)


def test_plaintext_metrics_are_served_on_loopback() -> None:
    server = serve_metrics("127.0.0.1:0", Metrics(), None)
    assert server.address.port > 0
    server.close()


def test_plaintext_metrics_are_served_where_insecure_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COINMESH_INSECURE", "1")
    serve_metrics("0.0.0.0:0", Metrics(), None).close()
