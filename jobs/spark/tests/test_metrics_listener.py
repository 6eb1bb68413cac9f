"""The stream's metrics listener: plaintext on loopback only."""

import pytest

from coinmesh_spark.stream import serve_metrics
from meshkit.metrics import Metrics
from meshkit.settings import ServiceSettings, SettingsError


def test_plaintext_metrics_beyond_loopback_are_rejected():
    settings = ServiceSettings(metrics_listen="0.0.0.0:0")
    with pytest.raises(SettingsError, match=r"refusing to serve metrics on 0\.0\.0\.0"):
        serve_metrics(settings, Metrics())


@pytest.mark.parametrize(("host", "insecure"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_plaintext_metrics_are_served_where_allowed(host, insecure):
    server = serve_metrics(
        ServiceSettings(metrics_listen=f"{host}:0", insecure=insecure), Metrics()
    )
    assert server is not None
    assert server.address.port > 0
    server.close()


def test_without_an_address_nothing_is_served():
    assert serve_metrics(ServiceSettings(metrics_listen=None), Metrics()) is None
