"""A collector process and its records on real Kafka, for the collectors' tests."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from confluent_kafka import KafkaException, Message

from coinmesh_contracts import topics
from coinmesh_sources.digest import parse
from meshkit.offsets import Partition, offsets
from meshkit.settings import KafkaSettings
from meshkit.tails import read_range, tail_consumer

SECONDS: Final = 180.0


async def eventually(condition: Callable[[], Any], what: str) -> Any:
    """Return the first true value of a condition, which may be asynchronous."""
    deadline = asyncio.get_running_loop().time() + SECONDS
    while True:
        value = condition()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        assert asyncio.get_running_loop().time() < deadline, f"not in {SECONDS:.0f} s: {what}"
        await asyncio.sleep(0.2)


class Log:
    """Records of Kafka topics, read from the beginning and then continued.

    Args:
        settings: Kafka settings of a client that may read every topic.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._consumer = tail_consumer(settings, "tests")
        self._records: dict[str, list[Message]] = {}
        self._next: dict[Partition, int] = {}

    def read(self, topic: str) -> list[Message]:
        """Return all records of a topic up to now, in order of each partition."""
        records = self._records.setdefault(topic, [])
        ends = self._ends(topic)
        starts = {partition: self._next.get(partition, 0) for partition in ends}
        for batch in read_range(self._consumer, starts, ends, SECONDS):
            records += batch
        self._next |= ends
        return records

    def _ends(self, topic: str) -> dict[Partition, int]:
        """Return the end of each partition; retry while a partition has no leader."""
        partitions = [(topic, number) for number in range(topics.BY_NAME[topic].partitions)]
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                return offsets(self._consumer, partitions, "end")
            except KafkaException:
                assert time.monotonic() < deadline, f"not in {SECONDS:.0f} s: the ends of {topic}"
                time.sleep(0.1)

    def events(self, topic: str, instrument: str) -> list[Any]:
        """Return the events of one instrument, or of another key."""
        key = instrument.encode()
        records = [message for message in self.read(topic) if message.key() == key]
        return [parse(topic, message.value() or b"") for message in records]

    def gaps(self, instrument: str, channel: str) -> dict[str, Any]:
        """Return the last state of each gap of a channel."""
        gaps = [gap for gap in self.events(topics.GAPS.name, instrument) if gap.channel == channel]
        return {gap.gap_id: gap for gap in sorted(gaps, key=lambda gap: gap.revision)}

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()


class CollectorProcess:
    """A collector's process, which tests start, inspect and kill.

    Args:
        module: The module to run, with its arguments.
        environment: Its settings; no other COINMESH_ variable is passed on.
        log: File for its log.
    """

    def __init__(self, module: list[str], environment: Mapping[str, str], log: Path) -> None:
        self._module, self._environment, self._log = module, environment, log
        self.process: subprocess.Popen[bytes] | None = None
        self.address = ""
        self._earlier = 0  # characters of the log that earlier processes wrote

    async def start(self) -> None:
        """Start the process and wait until it is ready."""
        self.spawn()
        await eventually(self._is_ready, f"the collector is ready; its log: {self._log}")

    def spawn(self) -> None:
        """Start the process without waiting."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith("COINMESH_")}
        self._earlier = len(self.text())
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self._module],
                env=clean | dict(self._environment),
                stderr=log,
            )

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.text()[-3000:]
        last = self.text()[self._earlier :].rpartition('"message": "serving"')[2]
        if '"message": "ready"' not in last:
            return False
        self.address = last.partition('"grpc": "')[2].partition('"')[0]
        return True

    def text(self) -> str:
        """Return the log so far."""
        return self._log.read_text() if self._log.exists() else ""

    async def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return await asyncio.to_thread(self.process.wait)
