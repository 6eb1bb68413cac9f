"""Settings: where values come from, and what a wrong one says."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.settings import (
    Address,
    CassandraSettings,
    KafkaSettings,
    RegistrySettings,
    S3Settings,
    ServiceSettings,
    SettingsError,
    load,
    read,
)


class Both(ServiceSettings, KafkaSettings, RegistrySettings):
    """What a collector has."""


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COINMESH_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092, localhost:9093")
    monkeypatch.setenv("COINMESH_SCHEMA_REGISTRY_URL", "http://127.0.0.1:8081/apis/ccompat/v7/")
    return monkeypatch


def test_values_come_from_the_environment(environment: pytest.MonkeyPatch):
    environment.setenv("COINMESH_SERVICE_NAME", "collector-binance")
    environment.setenv("COINMESH_LOG_LEVEL", "debug")
    settings = load(Both)
    assert settings.service_name == "collector-binance"
    assert settings.log_level == "DEBUG"
    assert settings.kafka_bootstrap_servers == "127.0.0.1:9092,localhost:9093"
    assert settings.schema_registry_url == "http://127.0.0.1:8081/apis/ccompat/v7"


def test_an_empty_variable_counts_as_unset(environment: pytest.MonkeyPatch):
    environment.setenv("COINMESH_TLS_DIR", "")
    assert load(Both).tls_dir is None


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("GRPC_LISTEN", "50051", "expected host:port"),
        ("GRPC_LISTEN", "127.0.0.1:99999", "not a number from 0 to 65535"),
        ("LOG_LEVEL", "LOUD", "expected DEBUG, INFO, WARNING or ERROR"),
        ("SCHEMA_REGISTRY_URL", "registry:8081", "begins with http://"),
        ("TRACE_SAMPLING_RATIO", "2", "less than or equal to 1"),
        ("KAFKA_BOOTSTRAP_SERVERS", " , ", "expected host:port"),
    ],
)
def test_a_wrong_value_is_named_with_the_way_out(
    environment: pytest.MonkeyPatch, name: str, value: str, reason: str
):
    environment.setenv(f"COINMESH_{name}", value)
    with pytest.raises(SettingsError) as caught:
        read(Both)
    message = str(caught.value)
    assert message.count("\n") == 0
    assert message.startswith(f"COINMESH_{name}: {value!r} is wrong")
    assert reason in message
    assert f"for example COINMESH_{name}=" in message


def test_load_ends_the_process_with_status_2(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        load(Both)
    assert caught.value.code == 2
    lines = sorted(capsys.readouterr().err.splitlines())
    assert len(lines) == 2
    assert lines[0].startswith("COINMESH_KAFKA_BOOTSTRAP_SERVERS is not set; set it to")


def s3(path: Path) -> S3Settings:
    return S3Settings(s3_endpoint="http://127.0.0.1:8333", s3_credentials_file=path)


def test_s3_credentials_are_read_and_not_shown(tmp_path: Path):
    path = tmp_path / "s3.json"
    pair = {"accessKey": "mesh", "secretKey": "hush"}  # pragma: allowlist secret
    path.write_text(json.dumps(pair))
    path.chmod(0o600)
    credentials = s3(path).s3_credentials()
    assert credentials.access_key == "mesh"
    assert credentials.secret_key.get_secret_value() == "hush"
    assert "hush" not in repr(credentials)


@pytest.mark.parametrize(
    ("text", "mode", "expected"),
    [
        ("{}", 0o600, "must hold"),
        ("[]", 0o600, "must hold"),
        ("not json", 0o600, "must hold"),
        # pragma: allowlist nextline secret
        ('{"accessKey": "a", "secretKey": "hush"}', 0o644, "chmod 600"),
        # pragma: allowlist nextline secret
        ('{"accessKey": "a", "secretKey": "hush"}', 0o640, "chmod 600"),
        (None, 0, "can't read"),
    ],
)
def test_bad_s3_credentials_name_the_file(
    tmp_path: Path, text: str | None, mode: int, expected: str
):
    path = tmp_path / "s3.json"
    if text is not None:
        path.write_text(text)
        path.chmod(mode)
    with pytest.raises(SettingsError, match=expected) as caught:
        s3(path).s3_credentials()
    assert str(path) in str(caught.value)
    assert "hush" not in str(caught.value)


def test_cassandra_contact_points_are_parsed():
    settings = CassandraSettings(cassandra_contact_points="10.0.0.1:9042,[::1]:9043")
    assert settings.cassandra_addresses == [Address("10.0.0.1", 9042), Address("::1", 9043)]


@given(
    host=st.from_regex(r"[a-z][a-z0-9.-]{0,20}", fullmatch=True) | st.ip_addresses().map(str),
    port=st.integers(0, 65535),
)
def test_an_address_survives_its_text(host: str, port: int):
    address = Address(host, port)
    assert Address.parse(str(address)) == address
