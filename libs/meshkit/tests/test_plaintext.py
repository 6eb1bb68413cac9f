"""Plaintext on the loopback interface only, unless the settings allow it."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from tls_harness import MARKET, client

from meshkit.kafka import client_config
from meshkit.redis_options import redis_options
from meshkit.settings import (
    KafkaSettings,
    MeshSettings,
    RedisSettings,
    ServiceSettings,
    SettingsError,
)
from meshkit.tls import (
    channel,
    is_loopback,
)


@pytest.mark.parametrize("host", ["10.0.0.5:50051", "dns:///gateway.mesh:50051", "0.0.0.0:1"])
async def test_plaintext_stays_on_the_loopback_interface(host: str):
    with pytest.raises(SettingsError, match="COINMESH_TLS_DIR"):
        channel(host, client(None))
    async with channel(host, MeshSettings(insecure=True)) as allowed:
        assert allowed.get_state() is grpc.ChannelConnectivity.IDLE


async def test_plaintext_listening_stays_on_the_loopback_interface(service: Any):
    settings = ServiceSettings(grpc_listen="0.0.0.0:0")
    with pytest.raises(SettingsError, match="refusing to listen on"):
        async with service(settings=settings, servicers=MARKET):
            pass


async def test_plaintext_metrics_stay_on_the_loopback_interface(service: Any):
    settings = ServiceSettings(metrics_listen="0.0.0.0:0")
    with pytest.raises(SettingsError, match="refusing to serve metrics on"):
        async with service(settings=settings, servicers=[]):
            pass


def test_plaintext_kafka_beyond_loopback_is_rejected() -> None:
    servers = "127.0.0.1:9092,kafka.example:9092"
    settings = KafkaSettings(kafka_bootstrap_servers=servers)
    with pytest.raises(SettingsError, match=r"refusing to connect to kafka\.example in plaintext"):
        client_config(settings, "test")
    assert client_config(settings.model_copy(update={"insecure": True}), "test")
    assert client_config(KafkaSettings(kafka_bootstrap_servers="[::1]:9092"), "test")


def test_plaintext_redis_beyond_loopback_is_rejected(tmp_path: Path) -> None:
    for url in ("redis://:word@redis.example:6379/0", "redis://10.0.0.1:6379/0"):
        with pytest.raises(SettingsError, match="refusing to connect to"):
            redis_options(RedisSettings(redis_url=url, tls_dir=tmp_path))
        assert redis_options(RedisSettings(redis_url=url, insecure=True)) == {}
    assert redis_options(RedisSettings(redis_url="redis://localhost:6379/0")) == {}


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("localhost", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost.example.org", False),
        ("0.0.0.0", False),
        ("", False),
    ],
)
def test_loopback_is_told_by_name(host: str, expected: bool):
    assert is_loopback(host) is expected
