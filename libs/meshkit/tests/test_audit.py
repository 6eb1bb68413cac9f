"""The audit log on real Kafka: one unbroken chain, whatever happens to its writer."""

import asyncio
import shutil
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest

from coinmesh_contracts import framing, topics
from coinmesh_contracts.events.v1 import audit_event_pb2 as pb
from meshkit import audit, audit_writer, rotation
from meshkit.audit import AuditLog, AuditSettings, AuditUnavailable
from meshkit.audit_chain import Chains
from meshkit.consumer import read_tail
from meshkit.errors import PermissionDenied
from meshkit.metrics import Metrics
from meshkit.settings import ServiceSettings, read

ADD = pb.AUDIT_ACTION_SUBSCRIPTION_ADD
CALL = pb.AUDIT_ACTION_CALL


@pytest.fixture
def settings(mesh: Any, monkeypatch: pytest.MonkeyPatch) -> AuditSettings:
    """A writer of its own."""
    mesh.require("schemas", "topics")
    for name, value in mesh.settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COINMESH_AUDIT_WRITER", f"test-{uuid.uuid4().hex}")
    return read(AuditSettings)


async def written(settings: AuditSettings) -> list[pb.AuditEvent]:
    """The writer's events, whose chain must be whole."""
    chains, events = Chains(), list[pb.AuditEvent]()
    for message in await read_tail(settings, topics.AUDIT.name, 0, 100_000, client_id="t"):
        if message.key() == str(settings.audit_writer).encode():
            assert list(chains.add(message.key(), message.value(), str(message.offset()))) == []
            payload = framing.split(message.value())[1]
            events.append(pb.AuditEvent.FromString(payload))
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    return events


async def record(log: AuditLog, what: str) -> None:
    await log.record(ADD, audit.ALLOWED, actor="user:ann", object=what)


class Refusing:
    """A chain writer for which Kafka doesn't answer."""

    def append(self, events: object) -> None:
        raise AuditUnavailable("no answer")

    def close(self) -> None:
        """Nothing is open."""


@pytest.mark.component
async def test_a_record_is_on_the_topic_when_its_action_may_begin(settings: AuditSettings) -> None:
    async with AuditLog(settings, source="test") as log:
        await record(log, "binance.BTC-USDT")
        (event,) = await written(settings)
    assert (event.actor, event.object, event.count) == ("user:ann", "binance.BTC-USDT", 1)
    assert event.event_id == f"audit:{settings.audit_writer}:1"


@pytest.mark.component
async def test_a_restarted_writer_continues_its_chain(settings: AuditSettings) -> None:
    for number in range(3):
        async with AuditLog(settings, source="test") as log:
            await asyncio.gather(*(record(log, f"{number}.{each}") for each in range(4)))
    assert len(await written(settings)) == 12


@pytest.mark.component
async def test_two_processes_of_one_name_take_turns(settings: AuditSettings) -> None:
    async with AuditLog(settings, source="a") as one, AuditLog(settings, source="b") as other:
        for number in range(2):
            await record(one, f"a{number}")
            await record(other, f"b{number}")
    assert [event.object for event in await written(settings)] == ["a0", "b0", "a1", "b1"]


@pytest.mark.component
async def test_a_commit_of_unknown_outcome_is_not_repeated(
    settings: AuditSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AuditLog(settings, source="test") as log:
        await record(log, "first")
        writer = log._writer
        producer = writer._producer
        assert producer is not None

        class Losing:
            """Commits, and loses the answer."""

            def __getattr__(self, name: str) -> Any:
                return getattr(producer, name)

            def commit_transaction(self, timeout: float) -> None:
                producer.commit_transaction(timeout)
                raise BufferError("the answer is lost")

        monkeypatch.setattr(writer, "_producer", Losing())
        with pytest.raises(BufferError):
            await asyncio.to_thread(
                writer.append,
                [
                    event := log._event(
                        ADD, audit.ALLOWED, actor="user:ann", what="second", detail=""
                    )
                ],
            )
        await asyncio.to_thread(writer.append, [event])
        await record(log, "third")
    assert [event.object for event in await written(settings)] == ["first", "second", "third"]


@pytest.mark.component
async def test_a_renewed_certificate_is_taken_up_with_and_without_something_to_write(
    settings: AuditSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "CHECK_SECONDS", 0.02)
    assert settings.tls_dir is not None
    present = settings.tls_dir / "current"

    def renew(number: int) -> None:
        shutil.copytree(present, tmp_path / str(number))
        (tmp_path / "next").symlink_to(str(number))
        (tmp_path / "next").rename(tmp_path / "current")

    renew(0)
    async with AuditLog(settings.model_copy(update={"tls_dir": tmp_path}), source="test") as log:
        writer, used = log._writer, list[object]()
        for number in range(1, 4):
            await record(log, str(number))
            used.append(writer._producer)
            renew(number)
            # A client that read the old files can't be made any more.
            shutil.rmtree(tmp_path / str(number - 1))
            if number == 2:
                async with asyncio.timeout(30):
                    while writer._producer is not None:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
        assert len({id(producer) for producer in used} - {id(None)}) == 3
    assert len(await written(settings)) == 3


def test_an_action_waits_longer_than_one_attempt_that_fails() -> None:
    assert audit_writer.CONFIG["message.timeout.ms"] < audit_writer.CALL_SECONDS * 1_000
    assert audit_writer.CALL_SECONDS * 2 < audit.RECORD_SECONDS
    assert ServiceSettings.model_fields["default_deadline_seconds"].default > audit.RECORD_SECONDS


@pytest.mark.component
async def test_denials_are_gathered_and_kept_at_the_end(settings: AuditSettings) -> None:
    denial = PermissionDenied("CALLER_NOT_ALLOWED", "no")
    async with AuditLog(settings, source="test") as log:
        for _ in range(500):
            log.note(CALL, audit.DENIED, actor="svc:x", object="/a/B", detail=denial.reason)
        log.note(CALL, audit.DENIED, actor="svc:y", object="/a/B", detail=denial.reason)
    events = await written(settings)
    assert {(event.actor, event.count) for event in events} == {("svc:x", 500), ("svc:y", 1)}


def unconnected() -> AuditSettings:
    return AuditSettings(kafka_bootstrap_servers="127.0.0.1:1", schema_registry_url="http://h")


async def test_an_action_is_refused_without_its_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "RECORD_SECONDS", 0.05)
    monkeypatch.setattr(audit, "CLOSE_SECONDS", 0.05)
    log = AuditLog(unconnected(), source="test")
    log._writer = Refusing()  # pyright: ignore[reportAttributeAccessIssue]
    running = asyncio.create_task(log.run())
    with pytest.raises(AuditUnavailable, match="can't be recorded"):
        await record(log, "x")
    running.cancel()


@pytest.mark.parametrize(
    ("seconds", "refusal", "why"),
    [(0.5, AuditUnavailable, "AUDIT_UNAVAILABLE"), (60, asyncio.CancelledError, "CancelledError")],
)
async def test_a_record_that_arrives_too_late_is_followed_by_its_failure(
    monkeypatch: pytest.MonkeyPatch, seconds: float, refusal: type[BaseException], why: str
) -> None:
    monkeypatch.setattr(audit, "RECORD_SECONDS", seconds)
    begun, answered, taken = asyncio.Event(), threading.Event(), list[pb.AuditEvent]()
    loop = asyncio.get_running_loop()

    class Late(Refusing):
        def append(self, events: list[pb.AuditEvent]) -> None:
            loop.call_soon_threadsafe(begun.set)
            answered.wait()
            taken.extend(events)

    log = AuditLog(unconnected(), source="test")
    log._writer = Late()  # pyright: ignore[reportAttributeAccessIssue]
    done: list[str] = []

    async def act() -> None:
        async with log.recorded(ADD, actor="user:ann", object="x"):
            done.append("x")

    async with log:
        acting = asyncio.create_task(act())
        await begun.wait()
        if refusal is asyncio.CancelledError:
            acting.cancel()
        with pytest.raises(refusal):
            await acting
        answered.set()
    assert not done
    assert [(event.outcome, event.object, event.detail) for event in taken] == [
        (audit.ALLOWED, "x", ""),
        (audit.FAILED, "x", why),
    ]


async def test_what_finds_no_room_is_counted_and_told() -> None:
    metrics, taken = Metrics(), list[pb.AuditEvent]()

    class Keeping(Refusing):
        def append(self, events: list[pb.AuditEvent]) -> None:
            taken.extend(events)

    log = AuditLog(unconnected(), source="test", metrics=metrics)
    log._writer = Keeping()  # pyright: ignore[reportAttributeAccessIssue]
    for number in range(audit.BUFFERED + 7):
        log.note(CALL, audit.DENIED, actor="svc:x", object=str(number))
    with pytest.raises(AuditUnavailable):
        await record(log, "x")
    await log.close()
    lost = [event for event in taken if event.action == pb.AUDIT_ACTION_RECORDS_LOST]
    assert [event.count for event in lost] == [7]
    assert len(taken) == audit.BUFFERED + 1
    assert metrics.registry.get_sample_value("coinmesh_audit_records_lost_total") == 7
