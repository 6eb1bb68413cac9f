"""Produces records from a task: idempotent, acknowledged by all replicas, no loss unnoticed.

A task that can't deliver fails, and its batch is run again: records may be duplicated, none is
lost.
"""

from __future__ import annotations

import time
from typing import Final

import confluent_kafka
from confluent_kafka import KafkaError

from meshkit.errors import Unavailable
from meshkit.kafka import Config, client_config, client_log
from meshkit.producer import PRODUCER_CONFIG, Headers
from meshkit.settings import KafkaSettings

DELIVERY_SECONDS: Final = 30.0
_CONFIG: Final[Config] = {
    **PRODUCER_CONFIG,
    # A batch gives up eventually; its trades are still on the topic.
    "message.timeout.ms": int(DELIVERY_SECONDS * 1000),
    "delivery.report.only.error": True,
    "statistics.interval.ms": 0,
}


class KafkaSink:
    """A producer for one process."""

    def __init__(self, settings: KafkaSettings, client_id: str) -> None:
        self._servers = settings.kafka_bootstrap_servers
        self._errors: list[str] = []
        config: Config = {
            **client_config(settings, client_id),
            **_CONFIG,
            "on_delivery": self._failed,
            # Outages appear as undelivered records.
            "error_cb": self._client_error,
        }
        self._producer = confluent_kafka.Producer(config, logger=client_log())

    def send(
        self, topic: str, key: bytes | None, value: bytes, headers: Headers | None = None
    ) -> None:
        """Queue a record; wait for room."""
        while True:
            try:
                self._producer.produce(topic, value, key, headers=headers)
            except BufferError:
                self._producer.poll(0.1)
                self._raise()
            else:
                return

    def flush(self) -> None:
        """Wait until Kafka has all records.

        Raises:
            Unavailable: It did not accept some of them; they were dropped here.
        """
        deadline = time.monotonic() + DELIVERY_SECONDS + 5
        while self._producer.flush(0.5) and time.monotonic() < deadline and not self._errors:
            pass
        if left := len(self._producer):
            self._producer.purge()
            self._producer.flush(1)
            self._errors.append(f"{left} records left")
        self._raise()

    def _raise(self) -> None:
        if self._errors:
            error, count = self._errors[0], len(self._errors)
            self._errors.clear()
            raise Unavailable(
                "KAFKA_UNAVAILABLE",
                f"Kafka at {self._servers} did not take {count} records: {error}",
            )

    def _failed(self, error: KafkaError | None, message: object) -> None:
        del message
        if error is not None:
            self._errors.append(error.str())

    def _client_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._errors.append(error.str())

    def __len__(self) -> int:
        """Return the number of unacknowledged records."""
        return len(self._producer)
