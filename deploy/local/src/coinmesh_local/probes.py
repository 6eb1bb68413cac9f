"""Readiness probes: one short attempt per call, true only when the component serves."""

import asyncio
import re
import ssl
import struct
from pathlib import Path
from typing import Any, cast

import grpc.aio
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from coinmesh_local.definition import Probe
from meshkit.tls import CertificateFiles, trusting_ssl_context

ATTEMPT = 3.0


async def attempt(  # noqa: PLR0911 (one return per kind of probe)
    probe: Probe, log: Path, since: int, environment: dict[str, str]
) -> bool:
    """Return whether the component is ready now; `since` is the log offset of its start."""
    try:
        async with asyncio.timeout(ATTEMPT):
            match probe.kind:
                case "tcp":
                    (await _connect(probe.target, probe))[1].close()
                case "http":
                    return await _http(probe)
                case "grpc":
                    return await _grpc(probe)
                case "cql":
                    return await _cql(probe)
                case "kafka":
                    return await _kafka(probe, int(probe.expect or "1"))
                case "log":
                    return await asyncio.to_thread(_log, log, since, probe.target)
                case "exec":
                    return await _exec(probe.target, environment)
                case "spawn":
                    pass
    except (OSError, TimeoutError, httpx.HTTPError, asyncio.IncompleteReadError):
        return False
    return True


def _tls(probe: Probe) -> ssl.SSLContext | None:
    """Return the probe's TLS context: with a client certificate, or for a separate CA."""
    if probe.tls:
        files = CertificateFiles(Path(probe.tls))
        return trusting_ssl_context(probe.ca or files.roots, files)
    return trusting_ssl_context(probe.ca) if probe.ca else None


async def _connect(target: str, probe: Probe) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = target.rpartition(":")
    return await asyncio.open_connection(host, int(port), ssl=_tls(probe))


async def _http(probe: Probe) -> bool:
    async with httpx.AsyncClient(verify=_tls(probe) or True, timeout=ATTEMPT) as client:
        answers = [await client.get(url) for url in probe.target.split()]
    return all(answer.is_success and probe.expect in answer.text for answer in answers)


async def _grpc(probe: Probe) -> bool:
    if probe.tls:
        credentials = await asyncio.to_thread(_grpc_credentials, Path(probe.tls))
        channel = grpc.aio.secure_channel(probe.target, credentials)
    else:
        channel = grpc.aio.insecure_channel(probe.target)
    async with channel:
        request = health_pb2.HealthCheckRequest(service=probe.expect)
        try:
            stub = cast(Any, health_pb2_grpc.HealthStub(channel))
            answer = await stub.Check(request, timeout=ATTEMPT)
        except grpc.aio.AioRpcError:
            return False
        return answer.status == health_pb2.HealthCheckResponse.SERVING


def _grpc_credentials(tls_dir: Path) -> grpc.ChannelCredentials:
    current = (tls_dir / "current").resolve(strict=True)
    files = (current / name for name in ("ca.crt", "tls.key", "tls.crt"))
    return grpc.ssl_channel_credentials(*(file.read_bytes() for file in files))


async def _cql(probe: Probe) -> bool:
    """Return whether OPTIONS is answered by SUPPORTED: Cassandra opens this port once it serves.

    Native protocol v4, sections 4.1.3 and 4.2.4:
    https://github.com/apache/cassandra/blob/trunk/doc/native_protocol_v4.spec
    """
    reader, writer = await _connect(probe.target, probe)
    try:
        writer.write(bytes([0x04, 0, 0, 0, 0x05]) + bytes(4))
        await writer.drain()
        header = await reader.readexactly(9)
    finally:
        writer.close()
    return header[0] == 0x84 and header[4] == 0x06


async def _kafka(probe: Probe, brokers: int) -> bool:
    """Return whether a Metadata response lists enough brokers (API 3, version 1).

    https://kafka.apache.org/protocol: a request is size, api key, version, correlation id, client
    id, and here an empty array of topics; the response begins with the array of brokers.
    """
    for address in probe.target.split(","):
        reader, writer = await _connect(address, probe)
        try:
            client = b"coinmesh-probe"
            body = struct.pack(">hhih", 3, 1, 1, len(client)) + client + struct.pack(">i", 0)
            writer.write(struct.pack(">i", len(body)) + body)
            await writer.drain()
            (size,) = struct.unpack(">i", await reader.readexactly(4))
            answer = await reader.readexactly(size)
        finally:
            writer.close()
        if struct.unpack_from(">i", answer, 4)[0] < brokers:
            return False
    return True


def _log(log: Path, since: int, pattern: str) -> bool:
    with open(log, "rb") as file:
        file.seek(since)
        return re.search(pattern.encode(), file.read()) is not None


async def _exec(command: str, environment: dict[str, str]) -> bool:
    process = await asyncio.create_subprocess_shell(
        command,
        env=environment,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        return await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
