"""Errors with a reason code, and their representation for callers.

A service raises a `MeshError`; the layer converts it to google.rpc.Status with an ErrorInfo
(https://google.aip.dev/193). Any other exception becomes INTERNAL with an error id that is also
logged.
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
    """An error that is reported to the caller.

    `reason` is a stable UPPER_SNAKE_CASE code for programs, `message` a sentence with the problem
    and the remedy, `metadata` the values used in the message.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL

    def __init__(self, reason: str, message: str, **metadata: object) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = {name: str(value) for name, value in metadata.items()}

    def details(self) -> list[message.Message]:
        """Return the detail messages of the status."""
        info = error_details_pb2.ErrorInfo(
            reason=self.reason, domain=DOMAIN, metadata=self.metadata
        )
        return [info]

    def to_status(self) -> status_pb2.Status:
        """Return the error as google.rpc.Status."""
        number: int = self.code.value[0]
        packed: list[any_pb2.Any] = []
        for detail in self.details():
            packed.append(any_pb2.Any())
            packed[-1].Pack(detail)
        return status_pb2.Status(code=number, message=self.message, details=packed)


class InvalidArgument(MeshError):
    """The request is invalid in any state of the system; `field` is the invalid field's path."""

    code = grpc.StatusCode.INVALID_ARGUMENT

    def __init__(
        self, reason: str, message: str, *, field: str | None = None, **metadata: object
    ) -> None:
        super().__init__(reason, message, **metadata)
        self.field = field

    def details(self) -> list[message.Message]:
        """Return ErrorInfo, and BadRequest if the field is known."""
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
        """Return ErrorInfo, and RetryInfo if the delay is known."""
        details = super().details()
        if self.retry_after_seconds is not None:
            delay = duration_pb2.Duration()
            delay.FromNanoseconds(round(self.retry_after_seconds * 1e9))
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        return details


class Unavailable(_Retryable):
    """A dependency is temporarily unavailable; the same call may succeed later."""

    code = grpc.StatusCode.UNAVAILABLE


class ResourceExhausted(_Retryable):
    """A quota or a limit is reached."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class NotFound(MeshError):
    """The requested object doesn't exist."""

    code = grpc.StatusCode.NOT_FOUND


class FailedPrecondition(MeshError):
    """The system's state forbids the operation; a retry alone doesn't help."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class PermissionDenied(MeshError):
    """The caller is authenticated but not allowed to call this."""

    code = grpc.StatusCode.PERMISSION_DENIED


class Unauthenticated(MeshError):
    """The caller isn't authenticated."""

    code = grpc.StatusCode.UNAUTHENTICATED


class DeadlineExceeded(MeshError):
    """The call exceeded its deadline."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class DataLoss(MeshError):
    """Stored data is missing or damaged."""

    code = grpc.StatusCode.DATA_LOSS


class Internal(MeshError):
    """An internal error."""


def error_info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo | None:
    """Return the ErrorInfo of a failed call, for clients; None if it has none."""
    # AioRpcError has the accessors that rpc_status reads, but not grpc.Call's type.
    status = rpc_status.from_call(error)  # pyright: ignore[reportArgumentType]
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info
    return None


def error_layer() -> Layer:
    """Return the layer that converts a handler's exceptions to a status."""

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
