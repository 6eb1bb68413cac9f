"""The certificate of OpenBao's own listener."""

import asyncio
import contextlib
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from coinmesh_access import certificates, listener_certificate, openbao, table
from coinmesh_access.agent import Agent, Place, read_hooks
from coinmesh_access.login import SETUP, Vault
from coinmesh_local.testing import eventually
from meshkit.metrics import Metrics


def prepare(root: Path) -> Path:
    """Write what OpenBao starts from; return the directory of its secrets."""
    openbao.prepare(
        run=root / "run",
        data=root / "data",
        secrets_dir=root / "secrets",
        audit=root / "logs" / "audit",
        listen="127.0.0.1:1",
        cluster="127.0.0.1:2",
    )
    return root / "secrets" / "openbao"


def serial(directory: Path) -> str:
    published = certificates.current(directory)
    assert published is not None
    return published.serial


def trusts(ca: Path, leaf: bytes) -> bool:
    """Whether one of the CAs in a file has issued the certificate."""
    certificate = x509.load_pem_x509_certificate(leaf)
    for root in x509.load_pem_x509_certificates(ca.read_bytes()):
        with contextlib.suppress(Exception):
            certificate.verify_directly_issued_by(root)
            return True
    return False


@asynccontextmanager
async def agent(directory: Path, metrics: Metrics, lifetime: timedelta) -> AsyncIterator[None]:
    """A running agent that keeps the listener's certificate alone; Vault isn't there."""
    renew = partial(listener_certificate.renew, lifetime=lifetime)
    place = Place(listener_certificate.NAME, directory, issue=renew)
    vault = Vault("https://127.0.0.1:1", directory / "ca.crt")
    task = asyncio.create_task(
        Agent(vault, directory.parent, table.load(), {}, metrics).run([place])
    )
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.slow
async def test_agent_renews_listener_certificate_without_vault(tmp_path: Path) -> None:
    directory, metrics = prepare(tmp_path), Metrics()
    listener_certificate.renew(directory, timedelta(seconds=3))
    seen = {serial(directory)}
    async with agent(directory, metrics, timedelta(seconds=3)):
        async with asyncio.timeout(60):
            while len(seen) < 3:
                seen.add(serial(directory))
                await asyncio.sleep(0.05)
        name, labels = "coinmesh_certificate_seconds_left", {"peer": "openbao"}
        left = metrics.registry.get_sample_value(name, labels)
        assert left is not None
        assert 0 < left <= 3


async def test_agent_counts_failed_listener_renewals(tmp_path: Path) -> None:
    directory, metrics = prepare(tmp_path), Metrics()
    (directory / certificates.CURRENT).unlink()
    name, labels = "coinmesh_certificate_renewal_failures_total", {"peer": "openbao"}

    def refuse(_: Path) -> Any:
        raise OSError("no space")

    place = Place(listener_certificate.NAME, directory, issue=refuse)
    vault = Vault("https://127.0.0.1:1", directory / "ca.crt")
    keeper = Agent(vault, directory.parent, table.load(), {}, metrics)
    task = asyncio.create_task(keeper.run([place]))
    await asyncio.to_thread(
        eventually,
        lambda: metrics.registry.get_sample_value(name, labels),
        "the failure is counted",
        timeout=60,
    )
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_start_renews_listener_certificate_only_when_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = prepare(tmp_path)
    first = serial(directory)
    prepare(tmp_path)
    assert serial(directory) == first
    published = certificates.current(directory)
    assert published is not None
    assert published.due(certificates.RENEW_SHARE) < published.not_after - timedelta(days=7)
    monkeypatch.setattr(certificates, "RENEW_SHARE", 0.0)
    prepare(tmp_path)
    assert serial(directory) != first


def test_renewed_ca_file_trusts_previous_certificates(tmp_path: Path) -> None:
    directory = prepare(tmp_path)
    leaves = list[bytes]()
    for _ in range(4):
        leaves.append((directory / "current" / "tls.crt").read_bytes())
        listener_certificate.renew(directory)
    leaves.append((directory / "current" / "tls.crt").read_bytes())
    ca = directory / "ca.crt"
    assert ca.is_symlink()
    assert [trusts(ca, leaf) for leaf in leaves] == [False, False, True, True, True]


def test_ca_file_without_link_is_replaced(tmp_path: Path) -> None:
    directory = tmp_path / "secrets" / "openbao"
    directory.mkdir(parents=True)
    (directory / "ca.crt").write_text("of an earlier version")
    prepare(tmp_path)
    assert trusts(directory / "ca.crt", (directory / "current" / "tls.crt").read_bytes())


def test_hooks_may_name_the_listener(tmp_path: Path) -> None:
    hooks = tmp_path / "hooks.toml"
    hooks.write_text('openbao = [["true"]]\n')
    assert read_hooks(hooks, table.load()) == {"openbao": [["true"]]}


@pytest.mark.component
def test_openbao_serves_renewed_certificate_after_hangup(bao: Any) -> None:
    directory = bao.secrets / "openbao"
    before = directory / "before.crt"
    before.write_bytes((directory / "ca.crt").read_bytes())

    def served() -> str:
        return ssl.get_server_certificate(("127.0.0.1", bao.port))

    old = served()
    listener_certificate.renew(directory)
    # Until the signal the old certificate is served, and clients with the new CA file trust it.
    assert served() == old
    assert bao.vault.login(bao.secrets, SETUP).is_authenticated()
    bao.process.send_signal(signal.SIGHUP)
    renewed = (directory / "current" / "tls.crt").read_text()
    eventually(lambda: served() == renewed, "OpenBao serves the new certificate", timeout=60)
    assert bao.vault.login(bao.secrets, SETUP).is_authenticated()
    assert not trusts(before, renewed.encode())
    before.unlink()
    assert datetime.now(UTC) < x509.load_pem_x509_certificate(renewed.encode()).not_valid_after_utc
