"""`coinmesh dlq` and `coinmesh tail` against a real broker, as a person calls them."""

import json
import os
import subprocess
import uuid
from collections.abc import Callable

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from coinmesh_contracts import framing, topics
from coinmesh_contracts.events.v1.dead_letter_pb2 import DeadLetter
from coinmesh_contracts.events.v1.event_type_pb2 import EVENT_TYPE_TRADE
from coinmesh_contracts.events.v1.trade_pb2 import Trade
from coinmesh_local.paths import BIN
from coinmesh_local.testing import TestMesh
from meshkit.kafka import client_config
from meshkit.settings import KafkaSettings

pytestmark = pytest.mark.component

#: What no other test's records have: the mesh is shared.
RUN = uuid.uuid4()
KEY = f"binance.{RUN.hex}-USDT".encode()
BAD, OTHER = f"BAD_{RUN.hex}", f"OTHER_{RUN.hex}"
FIRST = RUN.int >> 80
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def command(mesh: TestMesh) -> Command:
    """Runs `coinmesh …` against the mesh."""
    mesh.require("kafka-access", "topics", "schemas")

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        environment = {"COINMESH_HOME": str(mesh.home.root), "PATH": os.environ["PATH"]}
        return subprocess.run(
            [str(BIN / "coinmesh"), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def produce(mesh: TestMesh, topic: str, key: bytes, *values: bytes) -> None:
    producer = Producer(client_config(mesh.read(KafkaSettings), "test") | {"acks": "all"})
    for value in values:
        producer.produce(topic, value, key, partition=0)
    assert producer.flush(30) == 0


def trade(number: int) -> bytes:
    event = Trade(
        event_id=f"t{number}",
        event_time=1_723_075_200_123_456,
        source="binance",
        type=EVENT_TYPE_TRADE,
        symbol="BTCUSDT",
        price_units=5_500_000_000_000 + number,
        price_exponent=-8,
        size_units=100,
        size_exponent=-8,
    )
    return framing.header(1) + event.SerializeToString()


def letter(
    number: int,
    reason: str,
    value: bytes,
    topic: str = topics.TRADES.name,
    *,
    truncated: bool = False,
) -> bytes:
    one = DeadLetter(
        event_id=f"dlq:{topic}:0:{FIRST + number}",
        receive_time=1_723_075_200_000_000_000 + number,
        origin_topic=topic,
        origin_offset=FIRST + number,
        reason=reason,
        detail="why",
        key=KEY,
        value=value,
        reporter="test",
        truncated=truncated,
    )
    return framing.header(1) + one.SerializeToString()


def records(mesh: TestMesh, topic: str) -> list[bytes | None]:
    """The values that a topic has under the key."""
    consumer = Consumer(client_config(mesh.read(KafkaSettings), "test") | {"group.id": "t"})
    try:
        found: list[bytes | None] = []
        for number in range(topics.BY_NAME[topic].partitions):
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)
            consumer.assign([TopicPartition(topic, number, low)])
            while low < high:
                message = consumer.poll(10)
                assert message is not None
                assert message.error() is None
                if message.key() == KEY:
                    found.append(message.value())
                low = (message.offset() or 0) + 1
        return found
    finally:
        consumer.close()


def test_replay_puts_back_the_original_once(mesh: TestMesh, command: Command) -> None:
    bad = b"\x00\x00\x00\x00\x07\x00not a trade"
    produce(mesh, topics.DEAD_LETTERS.name, KEY, letter(1, BAD, bad))
    produce(mesh, topics.DEAD_LETTERS.name, KEY, letter(2, OTHER, trade(2)))
    produce(mesh, topics.DEAD_LETTERS.name, KEY, letter(1, BAD, bad))
    lines = command("dlq", "list", "--json").stdout.splitlines()
    listed = [one for one in map(json.loads, lines) if one["reason"] in (BAD, OTHER)]
    assert [one["reason"] for one in listed] == [BAD, BAD, OTHER]
    first, other = listed[0]["id"], listed[2]["id"]
    shown = json.loads(command("dlq", "show", other).stdout)
    assert shown["decoded"]["symbol"] == "BTCUSDT"

    dry = command("dlq", "replay", "--reason", BAD, "--dry-run")
    assert dry.stdout.endswith("1 to replay\n")
    assert records(mesh, topics.TRADES.name) == []

    assert command("dlq", "replay", "--reason", BAD).returncode == 0
    assert records(mesh, topics.TRADES.name) == [bad]
    again = command("dlq", "replay", first)
    assert (again.returncode, "--force does it again" in again.stderr) == (1, True)
    assert command("dlq", "replay", "--all").returncode == 0
    assert records(mesh, topics.TRADES.name) == [bad, trade(2)]
    assert command("dlq", "replay", first, "--force").returncode == 0
    assert len(records(mesh, topics.TRADES.name)) == 3


def test_replay_of_a_truncated_dead_letter_is_rejected(mesh: TestMesh, command: Command) -> None:
    reason = f"CUT_{RUN.hex.upper()}"
    produce(mesh, topics.DEAD_LETTERS.name, KEY, letter(9, reason, b"begin", truncated=True))
    before = records(mesh, topics.TRADES.name)
    every = command("dlq", "replay", "--reason", reason)
    assert (every.returncode, "only at market.trades.v1" in every.stdout) == (0, True)
    (listed,) = map(
        json.loads, command("dlq", "list", "--json", "--reason", reason).stdout.splitlines()
    )
    named = command("dlq", "replay", listed["id"])
    assert (named.returncode, "only at market.trades.v1" in named.stderr) == (1, True)
    assert records(mesh, topics.TRADES.name) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["replay"], "name dead letters"),
        (["replay", "0:999999"], "there is no dead letter 0:999999"),
        (["show", "seven"], "is not PARTITION:OFFSET"),
    ],
)
def test_mistakes_are_told(command: Command, arguments: list[str], message: str) -> None:
    result = command("dlq", *arguments)
    assert (result.returncode, message in result.stderr) == (1, True), result.stderr


def test_tail_prints_the_last_events_of_an_instrument(mesh: TestMesh, command: Command) -> None:
    topic = topics.TRADES.name
    produce(mesh, topic, f"binance.T{RUN.hex}-USDT".encode(), trade(10), trade(11), trade(12))
    result = command("tail", f"{topic}/binance.T{RUN.hex}-USDT", "-n", "2")
    lines = [json.loads(line, parse_float=str) for line in result.stdout.splitlines()]
    assert [(line["timestamp"], line["price"]) for line in lines] == [
        ("1723075200.123456", "55000.00000011"),
        ("1723075200.123456", "55000.00000012"),
    ]


def test_tail_names_the_topics_there_are(command: Command) -> None:
    result = command("tail", "market.nothing.v1")
    assert (result.returncode, "market.trades.v1" in result.stderr) == (1, True)
