"""Reading records of a topic between two moments, for commands that look into Kafka."""

from collections.abc import Iterator
from typing import TypeVar

import confluent_kafka
from confluent_kafka import KafkaException, Message, TopicPartition

from coinmesh_local.mesh import Mesh, caller_environment
from coinmesh_local.paths import Home
from coinmesh_local.steps import dispatch
from meshkit.errors import NotFound, Unavailable
from meshkit.kafka import client_config
from meshkit.settings import KafkaSettings, MeshSettings

TIMEOUT = 10.0
IDLE = 0.5
S = TypeVar("S", bound=MeshSettings)


def settings_of(kind: type[S]) -> S:
    """What `kind` holds: from the environment, else as the local mesh has it for operators."""
    defaults = Mesh.recorded(Home.from_environment()).settings(client="cli")
    return dispatch.read(kind, defaults | caller_environment())


class TopicReader:
    """Reads one topic by assignment: no group, nothing is committed."""

    def __init__(self, settings: KafkaSettings, topic: str) -> None:
        """Raises Unavailable when Kafka does not answer, NotFound when it has no such topic."""
        config = client_config(settings, "coinmesh-cli") | {
            "group.id": "coinmesh-cli",
            "enable.auto.commit": False,
            "enable.partition.eof": False,
            "auto.offset.reset": "earliest",
            "log_level": 0,
        }
        self.topic = topic
        self._consumer = confluent_kafka.Consumer(config)
        try:
            metadata = self._consumer.list_topics(topic, timeout=TIMEOUT).topics[topic]
        except KafkaException as error:
            servers = settings.kafka_bootstrap_servers
            raise Unavailable(
                "KAFKA_UNREACHABLE",
                f"Kafka at {servers} does not answer: is the mesh up? See `coinmesh status`",
            ) from error
        if not metadata.partitions:
            raise NotFound("UNKNOWN_TOPIC", f"Kafka has no topic {topic}")
        self.bounds = {
            partition: self._consumer.get_watermark_offsets(
                TopicPartition(topic, partition), timeout=TIMEOUT
            )
            for partition in sorted(metadata.partitions)
        }

    def existing(self, last: int | None = None) -> Iterator[Message]:
        """Records that were there when the reader was made, of each partition the `last` only."""
        ends: dict[int, int] = {}
        start: list[TopicPartition] = []
        for partition, (low, high) in self.bounds.items():
            first = low if last is None else max(low, high - last)
            if first < high:
                ends[partition] = high
                start.append(TopicPartition(self.topic, partition, first))
        self._consumer.assign(start)
        while ends:
            message = self._consumer.poll(IDLE)
            if message is None:
                # Compacted or expired records at the end leave nothing to deliver.
                ends = {p: end for p, end in ends.items() if self._position(p) < end}
                continue
            if message.error():
                raise KafkaException(message.error())
            partition, offset = message.partition(), message.offset()
            assert partition is not None
            assert offset is not None
            if offset < ends.get(partition, 0):
                yield message
            if offset + 1 >= ends.get(partition, 0):
                ends.pop(partition, None)

    def following(self) -> Iterator[Message]:
        """Records that come after the reader was made, for ever."""
        self._consumer.assign(
            [TopicPartition(self.topic, p, high) for p, (_, high) in self.bounds.items()]
        )
        while True:
            message = self._consumer.poll(1.0)
            if message is not None and not message.error():
                yield message

    def close(self) -> None:
        """Leave the connections."""
        self._consumer.close()

    def _position(self, partition: int) -> int:
        (found,) = self._consumer.position([TopicPartition(self.topic, partition)])
        return found.offset
