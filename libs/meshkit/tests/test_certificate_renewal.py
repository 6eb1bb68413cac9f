"""Renewed certificates: servers, channels and connections follow without a failed call."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tls_harness import (
    MARKET,
    PEM,
    REQUEST,
    VIEWER,
    Authority,
    Market,
    client,
    serial,
    served,
    server,
    stub,
    target,
)

from coinmesh_contracts.market.v1 import market_service_pb2_grpc as market_grpc
from coinmesh_contracts.market.v1.instrument_pb2 import Instrument
from meshkit.rotation import RotatingChannel
from meshkit.tls import (
    CertificateFiles,
    KeyPair,
    channel,
)


async def test_a_renewed_server_certificate_is_served_to_new_connections(
    service: Any, authority: Authority
):
    tls_dir = authority.issue("query-gateway")
    peer = authority.issue("envoy")
    async with service(settings=server(tls_dir), servicers=MARKET) as started:
        port = started.running.grpc.port
        first = await served(port, client(peer))
        authority.issue("query-gateway")
        second = await served(port, client(peer))
        assert first.serial_number != second.serial_number
        assert second.serial_number == serial(tls_dir)
        # A half-written renewal must not take the service down.
        (tls_dir / "current" / "tls.key").unlink()
        (tls_dir / "current" / "tls.crt").touch()
        assert (await served(port, client(peer))).serial_number == second.serial_number


async def test_a_channel_follows_its_certificate_without_a_failed_call(
    service: Any, authority: Authority
):
    settings = server(authority.issue("query-gateway"))
    async with service(settings=settings, servicers=MARKET) as started:
        tls_dir = authority.issue("envoy")
        async with channel(target(started), client(tls_dir)) as to_it:
            assert isinstance(to_it, RotatingChannel)
            market_stub = stub(to_it)
            stop = asyncio.Event()
            answers = 0

            async def load() -> None:
                nonlocal answers
                while not stop.is_set():
                    await market_stub.GetInstrument(REQUEST, metadata=VIEWER)
                    answers += 1

            workers = [asyncio.create_task(load()) for _ in range(4)]
            assert not await to_it.rotate_if_renewed()
            for _ in range(5):
                before, channel_before = answers, to_it.current
                authority.issue("envoy")
                assert await to_it.rotate_if_renewed()
                assert to_it.current is not channel_before
                while answers < before + 20:
                    assert not any(worker.done() for worker in workers)
                    await asyncio.sleep(0)
            stop.set()
            await asyncio.gather(*workers)


async def test_connections_end_before_their_certificate_without_a_failed_call(
    service: Any, authority: Authority, monkeypatch: pytest.MonkeyPatch
):
    tls_dir = authority.issue("query-gateway")
    assert CertificateFiles(tls_dir).read().connection_seconds == 61 * 60 / 4
    monkeypatch.setattr(KeyPair, "connection_seconds", 0.3)
    peers = set[str]()

    class Noting(Market):
        async def GetInstrument(self, request: Any, context: Any) -> Instrument:
            peers.add(context.peer())
            return await super().GetInstrument(request, context)

    servicers = [(market_grpc.add_MarketServiceServicer_to_server, Noting())]
    async with (
        service(settings=server(tls_dir), servicers=servicers) as started,
        channel(target(started), client(authority.issue("envoy"))) as to_it,
    ):
        while len(peers) < 3:
            await stub(to_it).GetInstrument(REQUEST, metadata=VIEWER)


async def test_a_channel_keeps_its_certificate_until_the_new_one_works(
    service: Any, authority: Authority, tmp_path: Path, monkeypatch: Any
):
    monkeypatch.setattr("meshkit.rotation.READY_SECONDS", 0.2)
    settings = server(authority.issue("query-gateway"))
    async with service(settings=settings, servicers=MARKET) as started:
        tls_dir = authority.issue("envoy")
        async with channel(target(started), client(tls_dir)) as to_it:
            # The renewed files trust somebody else, so the server is refused.
            other = Authority(tmp_path / "other")
            authority.issue("envoy")
            (tls_dir / "current" / "ca.crt").write_bytes(other.certificate.public_bytes(PEM))
            with pytest.raises(TimeoutError):
                await to_it.rotate_if_renewed()
            answer = await stub(to_it).GetInstrument(REQUEST, metadata=VIEWER)
            assert answer.name == "envoy"
            authority.issue("envoy")
            assert await to_it.rotate_if_renewed()


async def test_streams_survive_the_stub_being_older_than_the_channel(
    service: Any, authority: Authority
):
    settings = server(authority.issue("query-gateway"))
    async with (
        service(settings=settings, servicers=MARKET) as started,
        channel(target(started), client(authority.issue("envoy"))) as to_it,
    ):
        health = health_pb2_grpc.HealthStub(to_it)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        authority.issue("envoy")
        assert await to_it.rotate_if_renewed()
        again = health.Watch(health_pb2.HealthCheckRequest())
        assert (await again.read()).status
        watch.cancel()
        again.cancel()
