"""Connections to Cassandra, on the real one, as the gateway's."""

import asyncio
import shutil
import signal
from pathlib import Path

import pytest

from coinmesh_local.testing import TestMesh, eventually
from meshkit import cassandra_session, rotation
from meshkit.cassandra_session import CassandraSession
from meshkit.errors import Unavailable
from meshkit.settings import CassandraSettings, TelemetrySettings
from meshkit.tracing import Tracing

pytestmark = pytest.mark.component


def issue(mesh: TestMesh, tls_dir: Path, name: str) -> None:
    """Put a certificate in place as the agent does: a directory, and one rename of the link."""
    target = tls_dir / name
    shutil.copytree(mesh.home.tls / "query-gateway" / "current", target)
    link = tls_dir / "next"
    link.symlink_to(target.name)
    link.replace(tls_dir / "current")


def session_of(mesh: TestMesh, tls_dir: Path) -> CassandraSession:
    """The gateway's session with certificates of its own directory; it checks at each call."""
    settings = mesh.read(CassandraSettings, "query-gateway")
    return CassandraSession(
        settings.model_copy(update={"tls_dir": tls_dir}),
        {"now": "SELECT release_version FROM system.local"},
        Tracing(TelemetrySettings(service_name="query-gateway")),
    )


async def test_old_connections_end_after_a_renewal_and_no_read_fails(
    mesh: TestMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh.require("cassandra-access", "migrations")
    monkeypatch.setattr(cassandra_session, "OLD_SECONDS", 0.5)
    monkeypatch.setattr(rotation, "CHECK_SECONDS", 0.0)
    issue(mesh, tmp_path, "first")
    session = session_of(mesh, tmp_path)
    await session.connect()
    old = session._link
    assert old is not None
    assert not await session.renew_if_due()

    stop, reads = asyncio.Event(), 0

    async def read() -> None:
        nonlocal reads
        while not stop.is_set():
            assert await session.fetch("now")
            reads += 1

    reader = asyncio.create_task(read())
    issue(mesh, tmp_path, "second")
    assert await session.renew_if_due()
    assert session._link is not old
    await asyncio.gather(*session._closing)
    assert old.cluster.is_shutdown
    before = reads
    assert await session.fetch("now")
    stop.set()
    await reader
    assert reads >= before > 0
    await session.close()


async def test_what_cannot_be_connected_with_leaves_the_old_in_use(
    mesh: TestMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh.require("cassandra-access", "migrations")
    monkeypatch.setattr(rotation, "CHECK_SECONDS", 0.0)
    issue(mesh, tmp_path, "first")
    session = session_of(mesh, tmp_path)
    await session.connect()
    # One of a service that has no role there.
    target = tmp_path / "second"
    shutil.copytree(mesh.home.tls / "envoy" / "current", target)
    (tmp_path / "next").symlink_to(target.name)
    (tmp_path / "next").replace(tmp_path / "current")
    assert not await session.renew_if_due()
    assert await session.fetch("now")
    issue(mesh, tmp_path, "third")
    assert await session.renew_if_due()
    await session.close()


async def test_reads_of_a_hanging_cassandra_are_bounded(mesh: TestMesh, tmp_path: Path) -> None:
    mesh.require("cassandra-access", "migrations")
    issue(mesh, tmp_path, "first")
    session = session_of(mesh, tmp_path)
    await session.connect()
    cassandra = mesh.component("cassandra")
    cassandra.signal(signal.SIGSTOP)
    try:
        reads = [asyncio.create_task(session.fetch("now")) for _ in range(2000)]
        await asyncio.sleep(0)
        # More than may wait are rejected at once, and no more than may are with Cassandra.
        assert session.requests == cassandra_session.MAX_REQUESTS
        rejected = 2000 - cassandra_session.MAX_REQUESTS - cassandra_session.MAX_WAITING
        await asyncio.wait(reads, return_when=asyncio.FIRST_COMPLETED)
        assert sum(task.done() for task in reads) == rejected
        for task in reads:
            task.cancel()
        results = await asyncio.gather(*reads, return_exceptions=True)
        assert sum(isinstance(result, Unavailable) for result in results) == rejected
        # The driver's requests outlive their readers: they keep their places, and new reads wait.
        assert session.requests == cassandra_session.MAX_REQUESTS
        waiting = asyncio.create_task(session.fetch("now"))
        await asyncio.wait([waiting], timeout=0)
        assert not waiting.done()
        waiting.cancel()
    finally:
        cassandra.signal(signal.SIGCONT)
    assert await session.fetch("now")
    await asyncio.to_thread(eventually, lambda: not session.requests, "every place is given back")
    await session.close()
