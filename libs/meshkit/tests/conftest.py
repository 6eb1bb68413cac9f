"""An echo service without a contract, run by `serve()` in the test; separate topics per test."""

import asyncio
import sys
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from meshkit.kafka import client_config, client_log
from meshkit.metrics import Metrics
from meshkit.resources import Resource
from meshkit.service import Running, serve
from meshkit.settings import KafkaSettings, ServiceSettings
from meshkit.tls import channel

sys.path.insert(0, str(Path(__file__).parent))
from records import MakeTopic
from tls_harness import Authority

Handler = Callable[[bytes, Any], Any]


@dataclass
class Started:
    """A running service and a channel to it."""

    running: Running
    metrics: Metrics
    channel: grpc.aio.Channel
    status: "asyncio.Task[int]"

    async def unary(self, request: bytes = b"", **options: Any) -> bytes:
        return await self.channel.unary_unary("/test.Echo/Unary")(request, **options)

    def stream(self, request: bytes = b"", **options: Any) -> Any:
        return self.channel.unary_stream("/test.Echo/Stream")(request, **options)

    async def stop(self) -> int:
        self.running.stop()
        return await self.status


Serve = Callable[..., AbstractAsyncContextManager[Started]]


class Part(Resource):
    """A resource whose methods are passed as functions; missing methods do nothing."""

    def __init__(self, **methods: Callable[..., Any]) -> None:
        vars(self).update(methods)


def echo(unary: Handler | None = None, stream: Handler | None = None) -> tuple[Any, object]:
    """Return the pair for `serve()` from handlers passed as functions."""

    def add(_: object, server: Any) -> None:
        handlers = {}
        if unary:
            handlers["Unary"] = grpc.unary_unary_rpc_method_handler(unary)
        if stream:
            handlers["Stream"] = grpc.unary_stream_rpc_method_handler(stream)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("test.Echo", handlers),)
        )
        server.add_registered_method_handlers("test.Echo", handlers)

    return add, object()


@pytest.fixture
def service() -> Serve:
    """Return `async with service(unary=…, stream=…, **arguments of serve) as started`."""

    @asynccontextmanager
    async def start(
        unary: Handler | None = None,
        stream: Handler | None = None,
        settings: ServiceSettings | None = None,
        servicers: Sequence[tuple[Any, object]] | None = None,
        **arguments: Any,
    ) -> AsyncGenerator[Started, None]:
        settings = settings or ServiceSettings(drain_grace_seconds=0.2, service_name="echo")
        started: asyncio.Future[Running] = asyncio.get_running_loop().create_future()
        metrics = Metrics()
        status = asyncio.create_task(
            serve(
                settings,
                servicers=[echo(unary, stream)] if servicers is None else servicers,
                metrics=metrics,
                on_started=started.set_result,
                **arguments,
            )
        )
        await asyncio.wait([started, status], return_when=asyncio.FIRST_COMPLETED)
        if status.done():
            status.result()
        running = await started
        assert running.grpc is not None
        async with channel(f"localhost:{running.grpc.port}", settings) as to_it:
            yield Started(running, metrics, to_it, status)
            running.stop()
            await status

    return start


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def until() -> Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]:
    """Return a function that waits until a condition holds; the test's timeout is the limit."""

    async def wait(condition: Callable[[], Awaitable[bool]]) -> None:
        while not await condition():  # noqa: ASYNC110 - the condition is a server's response
            await asyncio.sleep(0.01)

    return wait


@pytest.fixture
def kafka(mesh: Any) -> KafkaSettings:
    mesh.require("kafka")
    return KafkaSettings(
        kafka_bootstrap_servers=mesh.endpoints["kafka"], tls_dir=mesh.home.tls / "deploy"
    )


@pytest.fixture
def admin(kafka: KafkaSettings) -> AdminClient:
    return AdminClient(client_config(kafka, "test"), logger=client_log())


@pytest.fixture
def make_topic(admin: AdminClient) -> Iterator[MakeTopic]:
    made: list[str] = []

    def make(partitions: int = 1, **config: str) -> str:
        name = f"test.{uuid.uuid4().hex}"
        dotted = {key.replace("_", "."): value for key, value in config.items()}
        new = NewTopic(name, partitions, 1, config={**dotted})
        for future in admin.create_topics([new]).values():
            future.result(30)
        made.append(name)
        return name

    yield make
    if made:
        admin.delete_topics(made)
