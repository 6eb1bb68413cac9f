"""The audit log on real Kafka: one unbroken chain, whatever happens to its writer."""

import asyncio
import shutil
import threading
import uuid
import weakref
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka import KafkaError, KafkaException

from coinmesh_audit import log as audit
from coinmesh_audit.chain import Chains
from coinmesh_audit.log import AuditLog, AuditSettings, AuditUnavailable
from coinmesh_audit.writer import ChainWriter
from coinmesh_contracts import framing, topics
from coinmesh_contracts.events.v1 import audit_event_pb2 as pb
from coinmesh_local.testing import eventually
from meshkit import rotation
from meshkit.errors import PermissionDenied
from meshkit.kafka import Config
from meshkit.metrics import Metrics
from meshkit.settings import read
from meshkit.tails import read_to_end

ADD = pb.AUDIT_ACTION_SUBSCRIPTION_ADD
CALL = pb.AUDIT_ACTION_CALL
Until = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


@pytest.fixture(scope="session")
def broker(mesh: Any) -> Any:
    """The mesh, with a transaction coordinator: a new broker takes its time to create one."""
    mesh.require("schemas", "topics")
    writer = ChainWriter(mesh.read(AuditSettings), f"warm-up-{uuid.uuid4().hex}")
    events = [pb.AuditEvent(action=CALL)]
    eventually(lambda: _has_appended(writer, events), "Kafka commits a transaction", timeout=120)
    writer.close()
    return mesh


def _has_appended(writer: ChainWriter, events: Sequence[pb.AuditEvent]) -> bool:
    try:
        writer.append(events)
    except KafkaException:
        return False
    return True


@pytest.fixture
def settings(broker: Any, monkeypatch: pytest.MonkeyPatch) -> AuditSettings:
    """A writer of its own."""
    for name, value in broker.settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COINMESH_AUDIT_WRITER", f"test-{uuid.uuid4().hex}")
    return read(AuditSettings)


async def written(settings: AuditSettings) -> list[pb.AuditEvent]:
    """The writer's events, whose chain must be whole."""
    chains, events = Chains(), list[pb.AuditEvent]()
    batches = read_to_end(settings, topics.AUDIT.name, "beginning", client_id="t")
    for message in [record async for batch in batches for record in batch]:
        if message.key() == str(settings.audit_writer).encode():
            assert list(chains.add(message.key(), message.value(), str(message.offset()))) == []
            payload = framing.split(message.value())[1]
            events.append(pb.AuditEvent.FromString(payload))
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    return events


async def record(log: AuditLog, what: str) -> None:
    await log.record(ADD, audit.ALLOWED, actor="user:ann", object=what)


class RefusingWriter:
    """A chain writer for which Kafka doesn't answer."""

    def append(self, events: Sequence[pb.AuditEvent]) -> None:
        raise AuditUnavailable("no answer")

    def renew_if_due(self) -> None:
        """Nothing is open."""

    def close(self) -> None:
        """Nothing is open."""


class FailingOnce(RefusingWriter):
    """A chain writer that Kafka answers from its second attempt on."""

    def __init__(self) -> None:
        self.attempts, self.written = 0, list[pb.AuditEvent]()

    def append(self, events: Sequence[pb.AuditEvent]) -> None:
        self.attempts += 1
        if self.attempts == 1:
            raise AuditUnavailable("no answer")
        self.written += events


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


class LosingProducer:
    """Commits its second transaction, and loses the answer."""

    def __init__(self, producer: confluent_kafka.Producer) -> None:
        self.commits, self._producer = 0, producer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def commit_transaction(self, timeout: float) -> None:
        self._producer.commit_transaction(timeout)
        self.commits += 1
        if self.commits == 2:
            raise KafkaException(KafkaError(KafkaError.REQUEST_TIMED_OUT))


@pytest.mark.component
async def test_commit_of_unknown_outcome_is_not_repeated(settings: AuditSettings) -> None:
    connections: list[LosingProducer] = []

    def connect(config: Config) -> Any:
        connections.append(LosingProducer(confluent_kafka.Producer(config)))
        return connections[-1]

    writer = ChainWriter(settings, str(settings.audit_writer), connect=connect)
    async with AuditLog(settings, source="test", writer=writer) as log:
        for name in ("first", "second", "third"):
            await record(log, name)
    assert [event.object for event in await written(settings)] == ["first", "second", "third"]
    assert len(connections) == 2


@pytest.mark.component
async def test_renewed_certificate_is_used_with_and_without_pending_records(
    settings: AuditSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    monkeypatch.setattr(rotation, "CHECK_SECONDS", 0.02)
    assert settings.tls_dir is not None
    present = settings.tls_dir / "current"

    def renew(number: int) -> None:
        shutil.copytree(present, tmp_path / str(number))
        (tmp_path / "next").symlink_to(str(number))
        (tmp_path / "next").rename(tmp_path / "current")

    renew(0)
    settings = settings.model_copy(update={"tls_dir": tmp_path})
    connections: list[weakref.ref[LosingProducer]] = []

    def connect(config: Config) -> Any:
        producer = LosingProducer(confluent_kafka.Producer(config))
        producer.commits = 2  # it loses no answer any more
        connections.append(weakref.ref(producer))
        return producer

    writer = ChainWriter(settings, str(settings.audit_writer), connect=connect)
    async with AuditLog(settings, source="test", writer=writer) as log:
        for number in range(1, 4):
            await record(log, str(number))
            renew(number)
            # A client that read the old files can't be made any more.
            shutil.rmtree(tmp_path / str(number - 1))
            if number == 2:
                await until(lambda: asyncio.sleep(0, connections[-1]() is None))
    assert len(connections) == 3
    assert len(await written(settings)) == 3


async def test_record_outlasts_an_attempt_that_fails() -> None:
    writer = FailingOnce()
    async with AuditLog(unconnected(), source="test", writer=writer) as log:
        await record(log, "x")
        assert [event.object for event in writer.written] == ["x"]


async def test_close_outlasts_an_attempt_that_fails() -> None:
    writer = FailingOnce()
    log = AuditLog(unconnected(), source="test", writer=writer)
    log.note(CALL, audit.DENIED, actor="svc:x", object="/a/B")
    await log.close()
    assert [event.object for event in writer.written] == ["/a/B"]


async def test_close_without_kafka_reports_the_records_that_are_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audit, "CLOSE_SECONDS", 0.05)
    log = AuditLog(unconnected(), source="test", writer=RefusingWriter())
    log.note(CALL, audit.DENIED, actor="svc:x", object="/a/B")
    with pytest.raises(AuditUnavailable, match="1 records are left"):
        await log.close()


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
    log = AuditLog(unconnected(), source="test", writer=RefusingWriter())
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

    class Late(RefusingWriter):
        def append(self, events: Sequence[pb.AuditEvent]) -> None:
            loop.call_soon_threadsafe(begun.set)
            answered.wait()
            taken.extend(events)

    log = AuditLog(unconnected(), source="test", writer=Late())
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

    class Keeping(RefusingWriter):
        def append(self, events: Sequence[pb.AuditEvent]) -> None:
            taken.extend(events)

    log = AuditLog(unconnected(), source="test", writer=Keeping())
    log.register(metrics)
    for number in range(audit.BUFFERED + 7):
        log.note(CALL, audit.DENIED, actor="svc:x", object=str(number))
    with pytest.raises(AuditUnavailable):
        await record(log, "x")
    await log.close()
    lost = [event for event in taken if event.action == pb.AUDIT_ACTION_RECORDS_LOST]
    assert [event.count for event in lost] == [7]
    assert len(taken) == audit.BUFFERED + 1
    assert metrics.registry.get_sample_value("coinmesh_audit_records_lost_total") == 7
