"""Errors with a reason code, and what a caller sees of them.

A service raises a `MeshError`; the layer turns it into google.rpc.Status with an ErrorInfo
(https://google.aip.dev/193). Anything else becomes INTERNAL with an id that the log has too.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import ClassVar

import grpc
import grpc.aio
from google.protobuf import any_pb2, duration_pb2, message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from meshkit.calls import Call, Layer

DOMAIN = "coinmesh"
_log = logging.getLogger(__name__)


class MeshError(Exception):
    """An error that a caller may see.

    `reason` is a stable UPPER_SNAKE_CASE code for programs, `message` a sentence for people
    that names the thing and the way out, `metadata` the values that the message was made from.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL

    def __init__(self, reason: str, message: str, **metadata: object) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = {name: str(value) for name, value in metadata.items()}

    def details(self) -> list[message.Message]:
        """The messages that go with the status."""
        info = error_details_pb2.ErrorInfo(
            reason=self.reason, domain=DOMAIN, metadata=self.metadata
        )
        return [info]

    def to_status(self) -> status_pb2.Status:
        """The error as google.rpc.Status."""
        number: int = self.code.value[0]
        packed: list[any_pb2.Any] = []
        for detail in self.details():
            packed.append(any_pb2.Any())
            packed[-1].Pack(detail)
        return status_pb2.Status(code=number, message=self.message, details=packed)


class InvalidArgument(MeshError):
    """The request is wrong whatever the system's state; `field` is the path of what is wrong."""

    code = grpc.StatusCode.INVALID_ARGUMENT

    def __init__(
        self, reason: str, message: str, *, field: str | None = None, **metadata: object
    ) -> None:
        super().__init__(reason, message, **metadata)
        self.field = field

    def details(self) -> list[message.Message]:
        """ErrorInfo, and BadRequest when the field is known."""
        details = super().details()
        if self.field is not None:
            request = error_details_pb2.BadRequest()
            request.field_violations.add(field=self.field, description=self.message)
            details.append(request)
        return details


class _Retryable(MeshError):
    def __init__(
        self,
        reason: str,
        message: str,
        *,
        retry_after_seconds: float | None = None,
        **metadata: object,
    ) -> None:
        super().__init__(reason, message, **metadata)
        self.retry_after_seconds = retry_after_seconds

    def details(self) -> list[message.Message]:
        """ErrorInfo, and RetryInfo when the delay is known."""
        details = super().details()
        if self.retry_after_seconds is not None:
            delay = duration_pb2.Duration()
            delay.FromNanoseconds(round(self.retry_after_seconds * 1e9))
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        return details


class Unavailable(_Retryable):
    """Something needed is down for now; the same call may succeed later."""

    code = grpc.StatusCode.UNAVAILABLE


class ResourceExhausted(_Retryable):
    """A quota or a bound is reached."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class NotFound(MeshError):
    """What was asked for doesn't exist."""

    code = grpc.StatusCode.NOT_FOUND


class FailedPrecondition(MeshError):
    """The system's state forbids it, and a retry alone doesn't help."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class PermissionDenied(MeshError):
    """The caller is known and may not."""

    code = grpc.StatusCode.PERMISSION_DENIED


class Unauthenticated(MeshError):
    """The caller isn't known."""

    code = grpc.StatusCode.UNAUTHENTICATED


class DeadlineExceeded(MeshError):
    """It took longer than the call's deadline."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class DataLoss(MeshError):
    """Stored data is missing or damaged."""

    code = grpc.StatusCode.DATA_LOSS


class Internal(MeshError):
    """A fault of our own."""


def error_info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo | None:
    """The ErrorInfo of a failed call, for clients; None if it has none."""
    # AioRpcError has the accessors that rpc_status reads, but not grpc.Call's type.
    status = rpc_status.from_call(error)  # pyright: ignore[reportArgumentType]
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info
    return None


def error_layer() -> Layer:
    """The layer that turns what a handler raises into a status."""

    @asynccontextmanager
    async def layer(call: Call) -> AsyncGenerator[None, None]:
        try:
            yield
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except MeshError as error:
            log = _log.warning if isinstance(error, Internal | DataLoss) else _log.debug
            log("%s: %s", call.method, error.message, extra={"reason": error.reason})
            await _abort(call, error)
        except Exception as error:
            error_id = uuid.uuid4().hex
            _log.exception("%s failed", call.method, extra={"error_id": error_id})
            wrapped = Internal(
                "INTERNAL",
                f"internal error {error_id}; the service's log tells more under this id",
                error_id=error_id,
            )
            wrapped.__cause__ = error
            await _abort(call, wrapped)

    return layer


async def _abort(call: Call, error: MeshError) -> None:
    status = rpc_status.to_status(error.to_status())
    await call.context.abort_with_status(status)
