"""Appends audit records to one chain, in transactions; starts from the topic's tail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import confluent_kafka
from confluent_kafka import KafkaException
from google.protobuf.message import DecodeError
from pydantic import Field

from coinmesh_audit.chain import GENESIS, Head, hash_of
from coinmesh_contracts import framing, topics
from coinmesh_contracts.events.v1.audit_event_pb2 import AuditEvent
from meshkit.kafka import Config, client_config, client_log
from meshkit.offsets import Partition, bounds
from meshkit.registry import Registry
from meshkit.rotation import Renewals
from meshkit.settings import KafkaSettings, RegistrySettings
from meshkit.tails import read_range, tail_consumer
from meshkit.tls import certificate_files

Connect = Callable[[Config], confluent_kafka.Producer]

TOPIC = topics.AUDIT.name
PARTITION: Partition = (TOPIC, 0)
# Time limit of one attempt to write; an action waits for two (`log.RECORD_SECONDS`).
CALL_SECONDS = 4.0
FIRST_LOOK = 1_000
CONFIG: Config = {
    "enable.idempotence": True,
    "acks": "all",
    "compression.type": "zstd",
    "partitioner": "murmur2_random",
    # A process that was killed in a transaction blocks readers for at most this time.
    "transaction.timeout.ms": 10_000,
    "message.timeout.ms": 3_000,
}


class AuditSettings(KafkaSettings, RegistrySettings):
    """Settings of an audit log."""

    audit_writer: str | None = Field(
        None,
        pattern=r"^[a-z0-9][a-zA-Z0-9.@_-]{0,200}$",
        description="whose chain it is, the service's name if unset; each replica needs its own",
        examples=["query-gateway-1"],
    )


class Writer(Protocol):
    """Appends to a chain of records; its methods block and run in one thread at a time."""

    def append(self, events: Sequence[AuditEvent]) -> None:
        """Write `events`, all or none; after an error the caller passes the same events again."""
        ...

    def renew_if_due(self) -> None:
        """Release connections with a certificate that was renewed."""
        ...

    def close(self) -> None:
        """Release the connections."""
        ...


class ChainWriter:
    """Appends to one writer's chain; blocking, for one thread at a time."""

    def __init__(
        self, settings: AuditSettings, writer: str, *, connect: Connect | None = None
    ) -> None:
        """Create the writer without connecting.

        Args:
            settings: Kafka's and the registry's.
            writer: The name of the chain.
            connect: Creates a producer from its configuration; by default
                `confluent_kafka.Producer`.
        """
        self._settings, self.writer = settings, writer
        self._connect = connect or _connect
        self._producer: confluent_kafka.Producer | None = None
        self._header = b""
        self._head = Head(0, GENESIS)
        # The resulting head of a commit whose outcome is unknown.
        self._hoped: Head | None = None
        self._known: list[Head] = []
        files = certificate_files(settings)
        self._renewals = Renewals(files.version if files else None)

    def append(self, events: Sequence[AuditEvent]) -> None:
        """Link `events` to the chain and write them, all or none.

        After an error the same events must be passed again: if they turn out to be on the topic,
        they aren't written twice.

        Raises:
            KafkaException: Kafka doesn't answer, or another process took the chain over.
            MeshError: The registry doesn't answer, or the schema or the topic is missing.
        """
        self.renew_if_due()
        producer = self._producer
        if producer is None:
            producer = self._open()
            if self._hoped in self._known:
                self._hoped = None
                return
        head, values = self._head, list[bytes]()
        for event in events:
            event.writer, event.sequence = self.writer, head.sequence + 1
            event.previous_hash = head.hash
            event.event_id = f"audit:{self.writer}:{event.sequence}"
            payload = event.SerializeToString(deterministic=True)
            head = Head(event.sequence, hash_of(payload))
            values.append(self._header + payload)
        self._hoped = head
        try:
            producer.begin_transaction()
            for value in values:
                producer.produce(TOPIC, value, self.writer.encode())
            producer.commit_transaction(CALL_SECONDS)
        except (KafkaException, BufferError):
            self._producer = None
            producer.purge()
            raise
        self._head, self._hoped = head, None

    def renew_if_due(self) -> None:
        """Release connections with a certificate that was renewed.

        The next append opens new ones: librdkafka reads its certificate only at creation.
        """
        if (version := self._renewals.pending()) is not None:
            self._producer = None
            self._renewals.taken(version)

    def close(self) -> None:
        """Release the connections."""
        self._producer = None

    def _open(self) -> confluent_kafka.Producer:
        if not self._header:
            registry = Registry(self._settings)
            try:
                self._header = registry.resolve_now({TOPIC: AuditEvent}).header(TOPIC)
            finally:
                registry.close()
        config = client_config(self._settings, f"audit-{self.writer}") | CONFIG
        config["transactional.id"] = f"audit-{self.writer}"
        producer = self._connect(config)
        producer.init_transactions(CALL_SECONDS)
        # Only after this call is no other process writing this chain.
        self._known = self._tail()
        self._head = max(self._known, key=lambda head: head.sequence, default=Head(0, GENESIS))
        self._producer = producer
        return producer

    def _tail(self) -> list[Head]:
        """Return the writer's last records on the topic, as many as one read contains; [] for none.

        After a commit of unknown outcome it reads back to the position of that commit.
        """
        wanted = self._hoped.sequence if self._hoped is not None else None
        consumer = tail_consumer(self._settings, f"audit-{self.writer}")
        try:
            low, high = bounds(consumer, PARTITION, CALL_SECONDS)
            look = FIRST_LOOK
            while True:
                first = max(low, high - look)
                heads = [
                    head
                    for records in read_range(consumer, {PARTITION: first}, {PARTITION: high})
                    for record in records
                    if record.key() == self.writer.encode()
                    for head in _head(record.value())
                ]
                reached = heads and (wanted is None or heads[0].sequence <= wanted)
                if reached or first == low:
                    return heads
                look *= 10
        finally:
            consumer.close()


def _connect(config: Config) -> confluent_kafka.Producer:
    return confluent_kafka.Producer(config, logger=client_log())


def _head(value: bytes | None) -> list[Head]:
    try:
        payload = framing.split(value)[1]
        return [Head(AuditEvent.FromString(payload).sequence, hash_of(payload))]
    except (framing.FramingError, DecodeError):
        return []  # `coinmesh audit verify` reports it
