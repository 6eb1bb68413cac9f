"""What a caller sees of errors, deadlines and streams; what the metrics say of it."""

import asyncio
import logging
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from meshkit.errors import (
    DataLoss,
    InvalidArgument,
    MeshError,
    NotFound,
    ResourceExhausted,
    Unavailable,
    error_info,
)
from meshkit.settings import ServiceSettings


def details(error: grpc.RpcError, kind: type[Any]) -> list[Any]:
    found = []
    for packed in rpc_status.from_call(error).details:
        message = kind()
        if packed.Unpack(message):
            found.append(message)
    return found


def raising(error: BaseException) -> Any:
    async def handler(request: bytes, context: object) -> bytes:
        raise error

    return handler


def counted(started: Any, method: str, code: str) -> float:
    """How many calls of a method ended with a code."""
    labels = {"rpc_service": "test.Echo", "rpc_method": method, "code": code}
    return started.metrics.value("coinmesh_rpc_handled_total", **labels)


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_a_mesh_error_becomes_a_status_with_its_reason(service: Any, until: Any):
    error = NotFound("INSTRUMENT_UNKNOWN", "no instrument binance.X-Y", instrument="binance.X-Y")
    async with service(unary=raising(error)) as started:
        seen = await failure(started.unary())
        assert seen.code() is grpc.StatusCode.NOT_FOUND
        assert seen.details() == "no instrument binance.X-Y"
        info = error_info(seen)
        assert info is not None
        assert (info.reason, info.domain) == ("INSTRUMENT_UNKNOWN", "coinmesh")
        assert dict(info.metadata) == {"instrument": "binance.X-Y"}

        async def is_counted() -> bool:
            return counted(started, "Unary", "NOT_FOUND") == 1

        # The caller has its answer before the server counts it.
        await until(is_counted)


async def test_an_invalid_argument_names_its_field(service: Any):
    error = InvalidArgument("BAD_INTERVAL", "interval 2m is not served", field="interval")
    async with service(unary=raising(error)) as started:
        seen = await failure(started.unary())
        (request,) = details(seen, error_details_pb2.BadRequest)
        assert [(v.field, v.description) for v in request.field_violations] == [
            ("interval", "interval 2m is not served")
        ]


@pytest.mark.parametrize("kind", [Unavailable, ResourceExhausted])
async def test_a_retryable_error_says_when(service: Any, kind: type[Any]):
    async with service(unary=raising(kind("BUSY", "busy", retry_after_seconds=1.5))) as started:
        seen = await failure(started.unary())
        (retry,) = details(seen, error_details_pb2.RetryInfo)
        assert retry.retry_delay.ToMilliseconds() == 1500


def test_every_error_has_a_code_of_its_own():
    kinds = [kind for kind in _subclasses(MeshError) if not kind.__name__.startswith("_")]
    direct = [kind for kind in kinds if kind.__module__ == "meshkit.errors"]
    assert len({kind.code for kind in direct}) == len(direct) == 10


def _subclasses(kind: type[MeshError]) -> list[type[MeshError]]:
    return [found for child in kind.__subclasses__() for found in (child, *_subclasses(child))]


async def test_an_unknown_exception_is_hidden_and_logged_under_its_id(
    service: Any, caplog: pytest.LogCaptureFixture
):
    async with service(unary=raising(RuntimeError("password of the database"))) as started:
        with caplog.at_level(logging.ERROR, "meshkit.errors"):
            seen = await failure(started.unary())
        assert seen.code() is grpc.StatusCode.INTERNAL
        assert "database" not in str(seen.details())
        info = error_info(seen)
        assert info is not None
        (record,) = caplog.records
        assert vars(record)["error_id"] == info.metadata["error_id"]
        assert record.exc_info is not None
        assert "password of the database" in str(record.exc_info[1])


async def test_an_abort_by_the_handler_is_left_alone(service: Any):
    async def handler(request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.OUT_OF_RANGE, "mine")

    async with service(unary=handler) as started:
        seen = await failure(started.unary())
        assert (seen.code(), seen.details()) == (grpc.StatusCode.OUT_OF_RANGE, "mine")


async def test_a_stream_brings_its_messages_and_then_its_error(service: Any):
    async def handler(request: bytes, context: object) -> Any:
        yield b"one"
        yield b"two"
        raise DataLoss("HOLE", "the log has a hole")

    async with service(stream=handler) as started:
        seen: list[bytes] = []

        async def read() -> None:
            async for message in started.stream():
                seen.append(message)  # noqa: PERF401 - kept up to the error

        error = await failure(read())
        assert seen == [b"one", b"two"]
        assert error.code() is grpc.StatusCode.DATA_LOSS
        assert error_info(error).reason == "HOLE"


async def test_a_stream_that_writes_through_the_context_works(service: Any):
    async def handler(request: bytes, context: Any) -> None:
        await context.write(request)
        await context.write(b"end")

    async with service(stream=handler) as started:
        assert [message async for message in started.stream(b"x")] == [b"x", b"end"]


async def test_a_cancelled_stream_cancels_its_handler(service: Any, until: Any):
    ended: list[BaseException] = []

    async def handler(request: bytes, context: object) -> Any:
        try:
            yield b"first"
            await asyncio.Event().wait()
        except BaseException as error:
            ended.append(error)
            raise

    async with service(stream=handler) as started:
        call = started.stream()
        assert await call.read() == b"first"
        call.cancel()

        async def is_counted() -> bool:
            return counted(started, "Stream", "CANCELLED") == 1

        await until(is_counted)
        assert isinstance(ended[0], asyncio.CancelledError | GeneratorExit)
        running = "coinmesh_rpc_running"
        assert started.metrics.value(running, rpc_service="test.Echo", rpc_method="Stream") == 0


async def test_a_unary_call_without_a_deadline_gets_one(service: Any):
    async def handler(request: bytes, context: object) -> bytes:
        await asyncio.Event().wait()
        return b""

    settings = ServiceSettings(default_deadline_seconds=0.05, drain_grace_seconds=0.2)
    async with service(unary=handler, settings=settings) as started:
        seen = await failure(started.unary())
        assert seen.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert error_info(seen).reason == "DEFAULT_DEADLINE_EXCEEDED"


async def test_a_callers_own_deadline_and_a_stream_are_left_alone(service: Any):
    async def unary(request: bytes, context: Any) -> bytes:
        return b"long" if context.time_remaining() > 10 else b"short"

    async def stream(request: bytes, context: Any) -> Any:
        yield str(context.time_remaining()).encode()

    settings = ServiceSettings(default_deadline_seconds=0.05, drain_grace_seconds=0.2)
    async with service(unary=unary, stream=stream, settings=settings) as started:
        assert await started.unary(timeout=60) == b"long"
        assert [message async for message in started.stream()] == [b"None"]


async def test_a_handlers_own_timeout_is_not_taken_for_the_deadline(service: Any):
    async with service(unary=raising(TimeoutError())) as started:
        assert (await failure(started.unary())).code() is grpc.StatusCode.INTERNAL


async def test_an_unknown_method_is_unimplemented(service: Any):
    async with service(unary=raising(RuntimeError())) as started:
        seen = await failure(started.channel.unary_unary("/test.Echo/Nothing")(b""))
        assert seen.code() is grpc.StatusCode.UNIMPLEMENTED
