"""One server interceptor that wraps every RPC in layers (metrics, traces, errors, deadlines …).

A layer is a function from a `Call` to an asynchronous context manager that is entered before the
handler runs and exited after it. Layers are entered in the order given; one interceptor for all of
them costs a streamed message one generator step instead of one per layer.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import grpc
import grpc.aio

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One running RPC."""

    method: str
    """The full name, `/package.Service/Method`."""
    context: Context
    streams_request: bool
    streams_response: bool

    @property
    def service(self) -> str:
        """Return `package.Service`."""
        return self.method.rpartition("/")[0].lstrip("/")

    @property
    def name(self) -> str:
        """Return the method's name without its service."""
        return self.method.rpartition("/")[2]

    @property
    def is_unary(self) -> bool:
        """Return whether the call has one request and one response."""
        return not (self.streams_request or self.streams_response)

    def code(self, default: grpc.StatusCode) -> grpc.StatusCode:
        """Return the status code that the handler or a layer has set."""
        # grpc.aio returns the number, 0 (or None) if nothing was set.
        value = cast(object, self.context.code())
        if isinstance(value, grpc.StatusCode):
            return value
        return _CODES.get(value, default) if value else default

    def code_of(self, error: BaseException) -> grpc.StatusCode:
        """Return the status code of a call that ended with `error`."""
        if isinstance(error, asyncio.CancelledError):
            return grpc.StatusCode.CANCELLED
        return self.code(grpc.StatusCode.UNKNOWN)


_CODES: dict[object, grpc.StatusCode] = {
    cast(tuple[int, str], code.value)[0]: code for code in grpc.StatusCode
}

Layer = Callable[[Call], AbstractAsyncContextManager[None]]
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class LayeredInterceptor(grpc.aio.ServerInterceptor):
    """Runs every handler inside `layers`; the first is the outermost."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = tuple(layers)
        self._wrapped: dict[str, tuple[object, _Handler]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """Return the wrapped handler for this call; None for an unknown method."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = cast(str, cast(Any, handler_call_details).method)
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            known = self._wrapped[method] = (handler, self._wrap(handler, method))
        return known[1]

    def _wrap(self, handler: Any, method: str) -> _Handler:
        streams_request = bool(handler.request_streaming)
        streams_response = bool(handler.response_streaming)
        kind = f"{_arity(streams_request)}_{_arity(streams_response)}"
        behaviour = getattr(handler, kind)

        async def enter(stack: AsyncExitStack, context: Context) -> None:
            call = Call(method, context, streams_request, streams_response)
            for layer in self._layers:
                await stack.enter_async_context(layer(call))

        async def unary(request: Any, context: Context) -> Any:
            async with AsyncExitStack() as stack:
                await enter(stack, context)
                result = behaviour(request, context)
                return await result if inspect.isawaitable(result) else result

        async def stream(request: Any, context: Context) -> AsyncGenerator[Any, None]:
            async with AsyncExitStack() as stack:
                await enter(stack, context)
                result = behaviour(request, context)
                if inspect.isawaitable(result):  # the handler writes through the context
                    await result
                    return
                async with aclosing(result):
                    async for response in result:
                        yield response

        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(
            stream if streams_response else unary,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def _arity(streams: bool) -> str:
    return "stream" if streams else "unary"
