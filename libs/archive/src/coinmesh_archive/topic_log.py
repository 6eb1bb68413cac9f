"""The current state of topics in Kafka, compared with the position of their archive."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

from confluent_kafka import IsolationLevel, KafkaException, TopicCollection, TopicPartition
from confluent_kafka import admin as kafka_admin
from confluent_kafka.admin import AdminClient

from coinmesh_archive.manifest import Incarnation, Manifest, Partition, Skipped
from meshkit.errors import FailedPrecondition, NotFound, Unavailable

SECONDS: Final = 10.0
# Its constants have no types.
_SPEC: Any = cast(Any, kafka_admin).OffsetSpec
REMEDY: Final = "`coinmesh raw skip {topic}` records the loss and lets the archive resume"


class LostRecords(FailedPrecondition):
    """Kafka no longer has the records to archive next; only an operator may skip them."""

    def __init__(self, topic: str, problem: str) -> None:
        super().__init__(
            "RECORDS_LOST", f"{topic} isn't archived: {problem}; {REMEDY.format(topic=topic)}"
        )


@dataclass(frozen=True)
class TopicLog:
    """A topic in Kafka.

    Attributes:
        topic: Its name.
        id: The id that Kafka assigned at its creation, hexadecimal.
        bounds: By partition, the first offset and the one after the last committed record.
        epochs: By partition, the leader epoch of its end; None if unknown.
        regrown: Partitions that were truncated below the archived end and have grown again, with
            the offset of the first record that differs from the archived one.
    """

    topic: str
    id: str
    bounds: Mapping[int, tuple[int, int]]
    epochs: Mapping[int, int | None] = field(default_factory=dict[int, int | None])
    regrown: Mapping[int, int] = field(default_factory=dict[int, int])


class TopicLogs:
    """Reads `TopicLog`s; every method raises Unavailable if Kafka doesn't answer."""

    def __init__(self, admin: AdminClient) -> None:
        self._admin = admin

    def read(self, names: Iterable[str]) -> dict[str, TopicLog]:
        """Return the existing topics among these names."""
        described = self._described(list(names))
        partitions = [
            TopicPartition(name, part.id)
            for name, (_, parts) in described.items()
            for part in parts
        ]
        earliest = self._offsets(partitions, _SPEC.earliest())
        latest = self._places(dict.fromkeys(partitions, _SPEC.latest()))
        return {
            name: TopicLog(
                name,
                topic_id,
                {p.id: (earliest[name, p.id], latest[name, p.id].offset) for p in parts},
                {p.id: latest[name, p.id].leader_epoch for p in parts},
            )
            for name, (topic_id, parts) in described.items()
        }

    def compared(self, log: TopicLog, manifest: Manifest) -> TopicLog:
        """Return the topic with the partitions that have `regrown` since they were archived.

        Only a new leader truncates a log, so only partitions with a new leader epoch are checked.
        Records that replaced archived ones were appended later than these.
        """
        suspects = {
            number: part.newest
            for number, part in manifest.current.partitions.items()
            if part.newest is not None
            and number in log.bounds
            and (part.newest.epoch is None or part.newest.epoch != log.epochs.get(number))
        }
        if manifest.current.topic_id != log.id or not suspects:
            return log
        found = self._places(
            {
                TopicPartition(log.topic, number): _SPEC.for_timestamp(newest.appended // 1000 + 1)
                for number, newest in suspects.items()
            }
        )
        later = {number: found[log.topic, number].offset for number in suspects}
        regrown = {n: at for n, at in later.items() if 0 <= at <= suspects[n].offset}
        return replace(log, regrown=regrown)

    def ids(self, names: Iterable[str]) -> dict[str, str]:
        """Return the id of each topic that exists."""
        return {name: topic_id for name, (topic_id, _) in self._described(list(names)).items()}

    def offsets_at(self, log: TopicLog, micros: int) -> dict[int, int]:
        """Return, by partition, the first offset appended at a time or later, else its end.

        Args:
            log: The topic.
            micros: The time, microseconds since the Unix epoch.
        """
        partitions = [TopicPartition(log.topic, number) for number in log.bounds]
        offsets = self._offsets(partitions, _SPEC.for_timestamp(micros // 1000))
        return {
            number: end if (offset := offsets[log.topic, number]) < 0 else offset
            for number, (_, end) in log.bounds.items()
        }

    def _described(self, names: list[str]) -> dict[str, tuple[str, list[Any]]]:
        futures = self._admin.describe_topics(TopicCollection(names), request_timeout=SECONDS)
        described: dict[str, tuple[str, list[Any]]] = {}
        for name, future in futures.items():
            try:
                answer = _result(future)
            except NotFound:
                continue
            described[name] = _hexadecimal(answer.topic_id), answer.partitions
        return described

    def _offsets(self, partitions: list[TopicPartition], spec: Any) -> dict[tuple[str, int], int]:
        places = self._places(dict.fromkeys(partitions, spec))
        return {key: place.offset for key, place in places.items()}

    def _places(self, requests: dict[TopicPartition, Any]) -> dict[tuple[str, int], Any]:
        if not requests:
            return {}
        futures = self._admin.list_offsets(
            requests,
            isolation_level=IsolationLevel.READ_COMMITTED,
            request_timeout=SECONDS,
        )
        return {(p.topic, p.partition): _result(f) for p, f in futures.items()}


def _result(future: Future[Any]) -> Any:
    try:
        return future.result(SECONDS + 1)
    except KafkaException as error:
        reason: Any = error.args[0]
        if reason.name() == "UNKNOWN_TOPIC_OR_PART":
            raise NotFound("TOPIC_NOT_FOUND", reason.str()) from error
        raise Unavailable("KAFKA_UNREACHABLE", f"Kafka doesn't answer: {reason.str()}") from error
    except TimeoutError as error:
        raise Unavailable("KAFKA_UNREACHABLE", "Kafka doesn't answer in time") from error


def _hexadecimal(uuid: Any) -> str:
    halves = uuid.get_most_significant_bits(), uuid.get_least_significant_bits()
    return "".join(f"{half & 0xFFFF_FFFF_FFFF_FFFF:016x}" for half in halves)


def check(manifest: Manifest, log: TopicLog) -> None:
    """Check that Kafka still has all records that the archive must read next.

    Raises:
        LostRecords: Records are missing.
    """
    incarnation = manifest.current
    if incarnation.topic_id != log.id:
        raise LostRecords(
            log.topic,
            "the topic was deleted and created again, and records of the deleted one may be lost",
        )
    for number, (earliest, latest) in sorted(log.bounds.items()):
        position = next_offset(incarnation, number)
        if earliest > position:
            raise LostRecords(
                log.topic,
                f"Kafka has deleted offsets {position} to {earliest - 1} of partition {number}",
            )
        if latest < position:
            raise LostRecords(
                log.topic,
                f"partition {number} was truncated to {latest}, but is archived to {position - 1}",
            )
        if number in log.regrown:
            raise LostRecords(
                log.topic,
                f"partition {number} was truncated to {log.regrown[number]} and has grown again, "
                f"but is archived to {position - 1}",
            )


def next_offset(incarnation: Incarnation, number: int) -> int:
    """Return the next offset of a partition that isn't archived: 0 for an added partition."""
    partition = incarnation.partitions.get(number)
    return partition.next if partition else 0


def begin(log: TopicLog) -> Incarnation:
    """Return an incarnation that begins with the first records that Kafka has."""
    return Incarnation(
        topic_id=log.id,
        partitions={
            number: Partition(first=earliest, next=earliest)
            for number, (earliest, _) in log.bounds.items()
        },
    )


def skip(
    manifest: Manifest,
    log: TopicLog,
    *,
    reason: str,
    actor: str,
    time: int,
    until: Mapping[int, int] | None = None,
) -> list[str]:
    """Record in a manifest that records are lost, so that the archive resumes after them.

    Args:
        manifest: The topic's newest; changed in place.
        log: The topic.
        reason: The reason stated by the operator.
        actor: The operator.
        time: Microseconds since the Unix epoch.
        until: By partition, the next offset to archive, for records that Kafka has but that can't
            be read; by default only records that Kafka no longer has are skipped.

    Returns:
        The skipped records, a line per range; empty if Kafka has all records.
    """
    current = manifest.current
    truncated = bool(log.regrown) or any(
        latest < next_offset(current, number) for number, (_, latest) in log.bounds.items()
    )
    if current.topic_id != log.id or truncated:
        last = max((part.next for part in current.partitions.values()), default=0)
        current.ended = Skipped(first=last, last=None, reason=reason, actor=actor, time=time)
        manifest.incarnations.append(begin(log))
        if truncated and current.topic_id == log.id:
            for number, part in manifest.current.partitions.items():
                position = min(next_offset(current, number), log.bounds[number][1])
                part.first = part.next = max(part.first, log.regrown.get(number, position))
                if part.next == next_offset(current, number) and number in current.partitions:
                    part.newest = current.partitions[number].newest
        return [f"{log.topic}: what the deleted log {current.topic_id} had after the archive"]
    lines: list[str] = []
    for number, (earliest, latest) in sorted(log.bounds.items()):
        part = current.partitions.setdefault(number, Partition(first=0, next=0))
        end = max(earliest, min((until or {}).get(number, 0), latest))
        if end > part.next:
            lines.append(f"{log.topic}, partition {number}: offsets {part.next} to {end - 1}")
            part.skipped.append(
                Skipped(first=part.next, last=end - 1, reason=reason, actor=actor, time=time)
            )
            part.next = end
    return lines
