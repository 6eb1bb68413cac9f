"""Shared by the Kafka producer and consumers: configuration, topic checks, error reports."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol, TypeVar

from confluent_kafka import KafkaError, KafkaException, Message

from meshkit.backoff import Backoff, RetriesExhaustedError
from meshkit.errors import DataLoss, FailedPrecondition, Unavailable
from meshkit.settings import Address, KafkaSettings
from meshkit.tls import certificate_files, kafka_client_config, require_plaintext_allowed

Config = dict[str, Any]
_log = logging.getLogger(__name__)
T = TypeVar("T")

METADATA_SECONDS = 5.0
PROBE_SECONDS = 2.0
MISSING_SECONDS = 5.0
ASK_TIMES = 8
# Minimum interval between reports of the same outage.
REPORT_SECONDS = 10.0
# Settings of every consumer: offsets are only committed explicitly.
FETCH_CONFIG: Config = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "queued.max.messages.kbytes": 32 << 10,
    "fetch.error.backoff.ms": 100,
}
_FINAL = {
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError._AUTO_OFFSET_RESET,  # pyright: ignore[reportPrivateUsage]
}
_UNREACHABLE = {
    KafkaError._TRANSPORT,  # pyright: ignore[reportPrivateUsage]
    KafkaError._ALL_BROKERS_DOWN,  # pyright: ignore[reportPrivateUsage]
}


class Client(Protocol):
    """The common interface of Producer and Consumer."""

    def list_topics(self, topic: str | None = None, timeout: float = -1) -> Any:
        """Return cluster metadata."""
        ...


def client_config(settings: KafkaSettings, client_id: str) -> Config:
    """Return librdkafka's settings common to all clients; security comes from `meshkit.tls`.

    Raises:
        SettingsError: A broker beyond loopback would be reached in plaintext.
    """
    if certificate_files(settings) is None:
        for part in settings.kafka_bootstrap_servers.split(","):
            require_plaintext_allowed(Address.parse(part).host, settings, "connect to")
    return {
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "client.id": client_id,
        "socket.keepalive.enable": True,
        # Reconnects to a restarted broker within two seconds instead of ten.
        "reconnect.backoff.max.ms": 2000,
        "allow.auto.create.topics": False,
        **kafka_client_config(settings),
    }


async def is_reachable(client: Client) -> bool:
    """Return whether Kafka is reachable."""
    try:
        await asyncio.to_thread(client.list_topics, timeout=PROBE_SECONDS)
    except KafkaException:
        return False
    return True


def client_log() -> logging.Logger:
    """Return librdkafka's logger without its line for every refused connection.

    An outage causes twenty of these lines a second; `OutageReporter` reports it instead.
    """
    log = logging.getLogger("meshkit.librdkafka")
    if _tells_more not in log.filters:
        log.addFilter(_tells_more)
    return log


def _tells_more(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("FAIL ")


async def retrying(ask: Callable[[], Awaitable[T]], what: str) -> T:
    """Call `ask` again while Kafka doesn't answer, as after a broker's restart.

    Raises:
        Unavailable: Kafka doesn't answer after `ASK_TIMES` attempts.
    """
    backoff = Backoff(base=0.25, cap=5.0, limit=ASK_TIMES)
    while True:
        try:
            return await ask()
        except KafkaException as error:
            problem = error.args[0].str()
            _log.warning("can't read %s (%s); retrying", what, problem)
            try:
                await backoff.wait()
            except RetriesExhaustedError:
                raise Unavailable("KAFKA_ANSWER", f"can't read {what}: {problem}") from error


def is_record(message: Message) -> bool:
    """Return whether a consumer's message is a record; log a transient error.

    Raises:
        DataLoss: An offset, a topic or a permission is missing.
    """
    error = message.error()
    if error is None:
        return True
    if error.code() in _FINAL:
        where = f"{message.topic()}[{message.partition()}]"
        raise DataLoss("CONSUMER_FAILED", f"can't read {where}: {error.str()}")
    _log.warning("Kafka: %s; retrying", error.str(), extra={"code": error.name()})
    return False


class OutageReporter:
    """librdkafka's `error_cb`: logs outages at a limited rate and forwards fatal errors."""

    def __init__(self, servers: str, on_fatal: Callable[[KafkaError], None]) -> None:
        self._servers, self._on_fatal = servers, on_fatal
        self._reported: dict[int, float] = {}

    def __call__(self, error: KafkaError) -> None:
        """Handle an error that concerns the whole client."""
        if error.fatal():
            self._on_fatal(error)
            return
        now = time.monotonic()
        kind = 0 if error.code() in _UNREACHABLE else error.code()
        if now - self._reported.get(kind, -REPORT_SECONDS) >= REPORT_SECONDS:
            self._reported[kind] = now
            problem = error.str() if kind else "can't be reached"
            _log.warning(
                "Kafka at %s: %s; retrying", self._servers, problem, extra={"code": error.name()}
            )


async def await_topics(
    client: Client,
    settings: KafkaSettings,
    topics: Iterable[str],
    wait_seconds: float | None = None,
) -> dict[str, int]:
    """Wait until Kafka answers and return the partition count of each topic.

    Args:
        client: Any Kafka client.
        settings: Kafka's addresses, for messages.
        topics: The topics that must exist.
        wait_seconds: Time limit, None for no limit.

    Raises:
        FailedPrecondition: A topic doesn't exist.
        Unavailable: Kafka doesn't answer in time.
    """
    names = list(topics)
    backoff = Backoff(base=0.25, cap=5.0)
    began = time.monotonic()
    missing_since: float | None = None
    while True:
        try:
            metadata = await asyncio.to_thread(client.list_topics, timeout=METADATA_SECONDS)
        except KafkaException as error:
            if wait_seconds is not None and time.monotonic() - began >= wait_seconds:
                raise Unavailable(
                    "KAFKA_UNREACHABLE",
                    f"Kafka at {settings.kafka_bootstrap_servers} doesn't answer; start it, or "
                    "correct COINMESH_KAFKA_BOOTSTRAP_SERVERS",
                ) from error
            _log.warning("Kafka at %s doesn't answer; retrying", settings.kafka_bootstrap_servers)
            await backoff.wait()
            continue
        known = metadata.topics
        missing = [name for name in names if name not in known or known[name].error]
        if not missing:
            return {name: len(known[name].partitions) for name in names}
        # It takes a moment until every broker knows a new topic.
        missing_since = missing_since or time.monotonic()
        if time.monotonic() - missing_since >= MISSING_SECONDS:
            raise FailedPrecondition(
                "TOPIC_MISSING",
                f"Kafka has no topic {', '.join(missing)}; create it with: coinmesh deploy topics",
                topics=",".join(missing),
            )
        await asyncio.sleep(0.2)
