"""Reading of a topic's records, for commands that inspect Kafka."""

from collections.abc import Iterator
from typing import TypeVar

from confluent_kafka import KafkaException, Message, TopicPartition

from coinmesh_local.mesh import Mesh, caller_environment
from coinmesh_local.paths import Home
from coinmesh_local.steps import dispatch
from meshkit.errors import NotFound, Unavailable
from meshkit.offsets import bounds
from meshkit.settings import KafkaSettings, MeshSettings
from meshkit.tails import read_range, tail_consumer

TIMEOUT = 10.0
S = TypeVar("S", bound=MeshSettings)


def settings_of(kind: type[S]) -> S:
    """Return settings from the environment, by default those of the local mesh for operators."""
    defaults = Mesh.recorded(Home.from_environment()).settings(client="cli")
    return dispatch.read(kind, defaults | caller_environment())


class TopicReader:
    """Read one topic by assignment: no group, nothing is committed."""

    def __init__(self, settings: KafkaSettings, topic: str) -> None:
        """Connect and read the bounds of the topic's partitions.

        Raises:
            Unavailable: Kafka is unreachable.
            NotFound: Kafka has no such topic.
        """
        self._consumer = tail_consumer(settings, "coinmesh-cli", {"log_level": 0})
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
        partitions = [(topic, number) for number in sorted(metadata.partitions)]
        self.bounds = {key: bounds(self._consumer, key, TIMEOUT) for key in partitions}

    def existing(self, last: int | None = None) -> Iterator[Message]:
        """Yield the records that existed on construction, or only the `last` of each partition."""
        starts = {
            key: low if last is None else max(low, high - last)
            for key, (low, high) in self.bounds.items()
        }
        ends = {key: high for key, (_, high) in self.bounds.items()}
        for records in read_range(self._consumer, starts, ends):
            yield from records

    def following(self) -> Iterator[Message]:
        """Yield the records written after construction, indefinitely."""
        self._consumer.assign(
            [TopicPartition(*key, high) for key, (_, high) in self.bounds.items()]
        )
        while True:
            message = self._consumer.poll(1.0)
            if message is not None and not message.error():
                yield message

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()
