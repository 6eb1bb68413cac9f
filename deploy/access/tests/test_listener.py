"""The certificate of OpenBao's own listener."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from coinmesh_access import openbao, table
from coinmesh_access.agent import Agent
from coinmesh_access.login import Vault
from meshkit.metrics import Metrics


def prepare(root: Path) -> Path:
    """What is written before OpenBao starts; the listener's certificate."""
    openbao.prepare(
        run=root / "run",
        data=root / "data",
        secrets_dir=root / "secrets",
        audit=root / "logs" / "audit",
        listen="127.0.0.1:1",
        cluster="127.0.0.1:2",
    )
    return root / "secrets" / "openbao" / "tls.crt"


def test_agent_measures_listener_certificate(tmp_path: Path) -> None:
    path, metrics, now = tmp_path / "secrets/openbao/tls.crt", Metrics(), datetime.now(UTC)
    vault = Vault("https://127.0.0.1:1", tmp_path)
    watched = {"openbao": path}
    Agent(vault, tmp_path, table.load(), {}, metrics, watched=watched, now=lambda: now)

    def left() -> float | None:
        name, labels = "coinmesh_certificate_seconds_left", {"peer": "openbao"}
        return metrics.registry.get_sample_value(name, labels)

    assert left() is None
    prepare(tmp_path)
    ends = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    assert left() == pytest.approx((ends - now).total_seconds())
