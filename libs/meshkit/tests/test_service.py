"""A service's life, in this process and as a process of its own."""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from conftest import Part, echo
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from meshkit.errors import DataLoss
from meshkit.metrics import Metrics, histogram
from meshkit.service import SERVER_OPTIONS, Running, run, serve
from meshkit.settings import ServiceSettings, SettingsError

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def answer(request: bytes, context: object) -> bytes:
    return request


async def health(started: Any, name: str = "") -> int:
    stub = health_pb2_grpc.HealthStub(started.channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status


async def test_a_service_answers_is_healthy_and_lists_itself(service: Any, until: Any):
    async with service(unary=answer) as started:
        assert await started.unary(b"hello") == b"hello"

        async def is_serving() -> bool:
            return await health(started) == await health(started, "test.Echo") == SERVING

        await until(is_serving)
        stub = reflection_pb2_grpc.ServerReflectionStub(started.channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        call = stub.ServerReflectionInfo(iter([request]))
        listed = (await call.read()).list_services_response.service
        assert {entry.name for entry in listed} == {
            "test.Echo",
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }
        assert await started.stop() == 0


async def test_a_message_or_metadata_beyond_the_limit_is_refused(service: Any):
    limits = dict(SERVER_OPTIONS)
    async with service(unary=answer) as started:
        largest = b"x" * (limits["grpc.max_receive_message_length"] - 16)
        options = [("grpc.max_receive_message_length", -1)]
        async with grpc.aio.insecure_channel(str(started.running.grpc), options) as channel:
            call = channel.unary_unary("/test.Echo/Unary")
            assert await call(largest) == largest
            much = (("x-much", "y" * limits["grpc.absolute_max_metadata_size"]),)
            for request, metadata in ((largest + b"x" * 32, ()), (b"", much)):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call(request, metadata=metadata)
                assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert await call(b"still here") == b"still here"


async def test_metrics_are_served_over_http(service: Any):
    settings = ServiceSettings(metrics_listen="127.0.0.1:0", drain_grace_seconds=0)
    async with service(unary=answer, settings=settings) as started:
        await started.unary(b"x")
        url = f"http://{started.running.metrics}/metrics"
        page = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
        assert 'coinmesh_rpc_seconds_count{rpc_method="Unary",rpc_service="test.Echo"} 1.0' in page
        assert "process_resident_memory_bytes" in page


async def test_metrics_are_collected_from_resources(service: Any):
    order: list[str] = []
    spans = histogram("spans_seconds", "Spans")

    def register(metrics: Metrics) -> None:
        order.append("register")
        metrics.read_counter("parts", "Parts", (), lambda: {(): 3})
        metrics.add(spans)

    async def run() -> None:
        order.append("run")

    async with service(resources=[Part(register=register, run=run)]) as started:
        spans.observe(1)
        assert started.metrics.value("coinmesh_parts_total") == 3
        assert started.metrics.value("coinmesh_spans_seconds_count") == 1
    assert order == ["register", "run"]


async def test_warnings_and_errors_are_counted(service: Any):
    async with service() as started:
        log, name = logging.getLogger("test"), "coinmesh_log_records_total"
        before = started.metrics.value(name, level="ERROR")
        log.error("an error")
        log.info("no error")
        assert started.metrics.value(name, level="ERROR") == before + 1
        assert started.metrics.registry.get_sample_value(name, {"level": "CRITICAL"}) == 0
        assert started.metrics.registry.get_sample_value(name, {"level": "INFO"}) is None


async def test_service_without_rpcs_reports_readiness_beside_its_metrics(
    until: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("meshkit.readiness.READINESS_SECONDS", 0.01)
    settings = ServiceSettings(metrics_listen="127.0.0.1:0", drain_grace_seconds=0)
    started: asyncio.Future[Running] = asyncio.get_running_loop().create_future()
    ready = False

    async def is_ready() -> bool:
        return ready

    resources = [Part(is_ready=is_ready)]
    status = asyncio.create_task(
        serve(settings, resources=resources, on_started=started.set_result)
    )
    running = await started
    assert running.grpc is None
    async with httpx.AsyncClient(base_url=f"http://{running.metrics}") as client:
        assert (await client.get("/ready")).status_code == 503
        assert "coinmesh_ready 0.0" in (await client.get("/metrics")).text
        ready = True

        async def is_reported() -> bool:
            return (await client.get("/ready")).status_code == 200

        await until(is_reported)
    running.stop()
    assert await status == 0


async def test_readiness_follows_its_checks(service: Any, until: Any, monkeypatch: Any):
    monkeypatch.setattr("meshkit.readiness.READINESS_SECONDS", 0.01)
    well = {"kafka": True, "redis": True}

    async def kafka() -> bool:
        return well["kafka"]

    async def redis() -> bool:
        if not well["redis"]:
            raise ConnectionError("refused")
        return True

    async with service(
        unary=answer, resources=[Part(is_ready=kafka), Part(is_ready=redis)]
    ) as started:

        async def is_serving() -> bool:
            return await health(started) == SERVING

        async def is_not_serving() -> bool:
            return await health(started) == NOT_SERVING

        await until(is_serving)
        assert started.metrics.value("coinmesh_ready") == 1
        well["redis"] = False
        await until(is_not_serving)
        assert started.metrics.value("coinmesh_ready") == 0
        well["redis"] = True
        await until(is_serving)


async def test_drain_finishes_calls_then_tasks_then_closes_backwards(service: Any):
    order: list[str] = []
    inside, finish = asyncio.Event(), asyncio.Event()

    async def slow(request: bytes, context: object) -> bytes:
        inside.set()
        await finish.wait()
        order.append("call")
        return b"done"

    async def background() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            order.append("task")

    async def flush() -> None:
        order.append("flush")

    async def disconnect() -> None:
        order.append("disconnect")

    settings = ServiceSettings(drain_grace_seconds=30)
    parts = [Part(close=flush), Part(run=background, close=disconnect)]
    async with service(unary=slow, settings=settings, resources=parts) as started:
        call = asyncio.ensure_future(started.unary())
        await inside.wait()
        watch = health_pb2_grpc.HealthStub(started.channel).Watch(health_pb2.HealthCheckRequest())
        seen = [(await watch.read()).status]
        started.running.stop()
        while seen[-1] != NOT_SERVING:
            seen.append((await watch.read()).status)
        watch.cancel()
        finish.set()
        assert await call == b"done"
        assert await started.status == 0
        assert order == ["call", "task", "disconnect", "flush"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await started.unary(timeout=1)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_failing_resource_ends_the_service_with_its_traceback(
    service: Any, caplog: pytest.LogCaptureFixture
):
    begin = asyncio.Event()

    async def fails() -> None:
        await begin.wait()
        raise DataLoss("NOT_DELIVERED", "Kafka refused a record")

    flushed = asyncio.Event()

    async def flush() -> None:
        flushed.set()

    async with service(unary=answer, resources=[Part(run=fails, close=flush)]) as started:
        begin.set()
        assert await started.status == 1
        assert flushed.is_set()
    (record,) = [r for r in caplog.records if "Part failed" in r.getMessage()]
    assert record.exc_info is not None
    assert vars(record)["reason"] == "NOT_DELIVERED"


async def test_resource_whose_run_returns_does_not_end_the_service(service: Any):
    done = asyncio.Event()

    async def once() -> None:
        done.set()

    async with service(unary=answer, resources=[Part(run=once)]) as started:
        await done.wait()
        assert await started.unary(b"still") == b"still"
        assert await started.stop() == 0


async def test_failing_close_fails_the_service_but_not_the_next_close(service: Any):
    flushed = asyncio.Event()

    async def fails() -> None:
        raise OSError("disk")

    async def flush() -> None:
        flushed.set()

    async with service(unary=answer, resources=[Part(close=flush), Part(close=fails)]) as started:
        assert await started.stop() == 1
        assert flushed.is_set()


async def test_a_taken_port_is_named(service: Any):
    async with service(unary=answer) as started:
        taken = str(started.running.grpc)
        with pytest.raises(SettingsError, match=f"can't listen on {taken}"):
            await serve(ServiceSettings(grpc_listen=taken), [echo(answer)])


async def test_a_taken_metrics_port_is_named(service: Any):
    first = ServiceSettings(metrics_listen="127.0.0.1:0", drain_grace_seconds=0)
    async with service(unary=answer, settings=first) as started:
        taken = str(started.running.metrics)
        with pytest.raises(SettingsError, match=f"METRICS_LISTEN: can't listen on {taken}"):
            await serve(ServiceSettings(metrics_listen=taken))


def test_run_turns_errors_into_exit_statuses(capsys: pytest.CaptureFixture[str]):
    async def wrong() -> int:
        raise SettingsError("COINMESH_X is wrong")

    async def broken() -> int:
        raise RuntimeError

    async def well() -> int:
        return 0

    assert run(wrong()) == 2
    assert capsys.readouterr().err == "COINMESH_X is wrong\n"
    assert run(broken()) == 1
    assert run(well()) == 0


TEN_LINES = """
from meshkit.service import configure, run, serve
from meshkit.settings import ServiceSettings


async def main() -> int:
    settings = configure(ServiceSettings)
    return await serve(settings)


raise SystemExit(run(main()))
"""


def process(path: Path, **settings: str) -> "subprocess.Popen[str]":
    program = path / "main.py"
    program.write_text(TEN_LINES)
    environment = {**os.environ, **{f"COINMESH_{key}": value for key, value in settings.items()}}
    return subprocess.Popen(
        [sys.executable, str(program)], env=environment, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_drains_on_a_signal_and_logs_json(tmp_path: Path, number: signal.Signals):
    with process(tmp_path, SERVICE_NAME="ten-lines") as running:
        assert running.stderr is not None
        lines = []
        for text in running.stderr:
            lines.append(json.loads(text))
            if lines[-1]["message"] == "ready":
                running.send_signal(number)
    assert running.returncode == 0
    assert [line["message"] for line in lines] == ["serving", "ready", "draining", "stopped"]
    assert {line["service"] for line in lines} == {"ten-lines"}


@pytest.mark.slow
def test_a_process_with_a_wrong_setting_says_so_in_one_line(tmp_path: Path):
    with process(tmp_path, GRPC_LISTEN="nowhere") as running:
        _, errors = running.communicate()
    assert running.returncode == 2
    assert errors.startswith("COINMESH_GRPC_LISTEN: 'nowhere' is wrong: expected host:port")
    assert errors.count("\n") == 1
