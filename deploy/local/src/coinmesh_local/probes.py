"""Readiness: one short attempt per call, true only when the component really serves."""

import asyncio
import re
import struct
from pathlib import Path

import grpc.aio
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from coinmesh_local.definition import Probe

ATTEMPT = 3.0


async def attempt(  # noqa: PLR0911 (one return per kind of probe)
    probe: Probe, log: Path, since: int, environment: dict[str, str]
) -> bool:
    """Whether the component behind `probe` is ready now; `since` is where its log began."""
    try:
        async with asyncio.timeout(ATTEMPT):
            match probe.kind:
                case "tcp":
                    (await _connect(probe.target))[1].close()
                case "http":
                    return await _http(probe)
                case "grpc":
                    return await _grpc(probe)
                case "cql":
                    return await _cql(probe.target)
                case "kafka":
                    return await _kafka(probe.target, int(probe.expect or "1"))
                case "log":
                    return await asyncio.to_thread(_log, log, since, probe.target)
                case "exec":
                    return await _exec(probe.target, environment)
                case "spawn":
                    pass
    except (OSError, TimeoutError, httpx.HTTPError, asyncio.IncompleteReadError):
        return False
    return True


async def _connect(target: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = target.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def _http(probe: Probe) -> bool:
    async with httpx.AsyncClient(verify=probe.ca or True, timeout=ATTEMPT) as client:
        answers = [await client.get(url) for url in probe.target.split()]
    return all(answer.is_success for answer in answers)


async def _grpc(probe: Probe) -> bool:
    if probe.ca:
        roots = await asyncio.to_thread(Path(probe.ca).read_bytes)
        credentials = grpc.ssl_channel_credentials(roots)
        channel = grpc.aio.secure_channel(probe.target, credentials)
    else:
        channel = grpc.aio.insecure_channel(probe.target)
    async with channel:
        request = health_pb2.HealthCheckRequest(service=probe.expect)
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=ATTEMPT)
        except grpc.aio.AioRpcError:
            return False
        return answer.status == health_pb2.HealthCheckResponse.SERVING


async def _cql(target: str) -> bool:
    """OPTIONS answered by SUPPORTED: Cassandra opens this port only when it serves requests.

    Native protocol v4, sections 4.1.3 and 4.2.4:
    https://github.com/apache/cassandra/blob/trunk/doc/native_protocol_v4.spec
    """
    reader, writer = await _connect(target)
    try:
        writer.write(bytes([0x04, 0, 0, 0, 0x05]) + bytes(4))
        await writer.drain()
        header = await reader.readexactly(9)
    finally:
        writer.close()
    return header[0] == 0x84 and header[4] == 0x06


async def _kafka(target: str, brokers: int) -> bool:
    """Enough brokers in a Metadata answer, asked in the protocol itself (API 3, version 1).

    https://kafka.apache.org/protocol: a request is size, api key, version, correlation id, client
    id, and here an empty array of topics; the answer begins with the array of brokers.
    """
    for address in target.split(","):
        reader, writer = await _connect(address)
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
