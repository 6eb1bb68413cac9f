"""Events of the topics: the minimal form, and what the archive replays to."""

import json
import subprocess
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from google.protobuf.json_format import MessageToJson

from coinmesh_archive.reader import read_day
from coinmesh_archive.store import ArchiveStore
from coinmesh_contracts import framing, topics
from coinmesh_local.paths import BIN
from coinmesh_local.testing import eventually
from meshkit.kafka import client_config
from meshkit.settings import KafkaSettings, S3Settings

pytestmark = pytest.mark.e2e

FORM = ["timestamp", "source", "type", "symbol", "price", "size", "metadata"]


def capture_trades(run: Any, symbol: str) -> list[tuple[Decimal, Decimal, Decimal]]:
    """Time in seconds, price and size of a symbol's trades, in order."""
    return [(Decimal(time) / 1_000_000, price, size) for _, time, price, size in run.trades[symbol]]


@pytest.mark.parametrize("way", ["rest", "tail"])
def test_the_minimal_form_of_trades(run: Any, way: str) -> None:
    for symbol, instrument in run.instruments.items():
        events = [
            json.loads(line, parse_float=Decimal, parse_int=Decimal)
            for line in last_trades(run, way, instrument, len(run.trades[symbol]))
        ]
        assert all(list(event) == FORM for event in events)
        assert {(e["source"], e["type"], e["symbol"]) for e in events} == {
            ("binance", "trade", symbol)
        }
        # The last ones are of the generated market, those before them the capture's.
        found = [(e["timestamp"], e["price"], e["size"]) for e in events]
        found = [each for each in found if each[0] < run.end]
        wanted = capture_trades(run, symbol)
        assert found
        assert found == wanted[-len(found) :], symbol


def last_trades(run: Any, way: str, instrument: str, count: int) -> list[str]:
    """The last trades of an instrument that its topic holds, in the minimal form."""
    topic = topics.TRADES.name
    if way == "rest":
        query = {"topic": topic, "instrument": instrument, "last": "10000", "limit": str(count)}
        return run.rest.get("/v1/events", params=query).raise_for_status().text.splitlines()
    command = [BIN / "coinmesh", "tail", f"{topic}/{instrument}", "--lines", "20000"]
    environment = {"COINMESH_HOME": str(run.mesh.home.root), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_archive_replays_to_the_same_events(run: Any, tmp_path: Path) -> None:
    published = trades_of_topic(run)
    wanted = {event["eventId"] for event in published if in_capture(run, event)}
    replayed: dict[str, dict[str, Any]] = {}

    def complete() -> bool:
        raw, out = tmp_path / "raw", tmp_path / "out"
        if not download(run, topics.FRAMES.name, raw):
            return False
        command = [BIN / "collector-binance", "replay", str(raw), "--out", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if "lacks frames" in done.stderr:
            return False  # its objects come one after the other
        assert done.returncode == 0, done.stderr
        with (out / f"{topics.TRADES.name}.jsonl").open() as lines:
            for line in lines:
                event = json.loads(line)
                replayed[event["eventId"]] = event
        return wanted <= set(replayed)

    eventually(complete, "the archive holds the capture's frames")
    for event in published:
        if event["eventId"] in replayed:
            assert replayed[event["eventId"]] == event


def in_capture(run: Any, event: dict[str, Any]) -> bool:
    return event["symbol"] in run.trades and int(event["eventTime"]) < run.end * 1_000_000


def trades_of_topic(run: Any) -> list[dict[str, Any]]:
    """The events of the trades' topic as JSON, up to its present end."""
    consumer = Consumer(
        {
            **client_config(run.mesh.read(KafkaSettings), "e2e"),
            "group.id": "e2e",
            "enable.auto.commit": False,
        }
    )
    try:
        ends = {}
        for partition in range(topics.INSTRUMENT_PARTITIONS):
            place = TopicPartition(topics.TRADES.name, partition)
            ends[partition] = consumer.get_watermark_offsets(place, timeout=30)[1]
        consumer.assign(
            [
                TopicPartition(topics.TRADES.name, p, OFFSET_BEGINNING)
                for p, end in ends.items()
                if end
            ]
        )
        left = {partition for partition, end in ends.items() if end}
        found = []
        while left:
            message = consumer.poll(30)
            assert message is not None, "the topic ends too early"
            assert message.error() is None, message.error()
            _, payload = framing.split(message.value())
            found.append(json.loads(MessageToJson(topics.TRADES.message.FromString(payload))))
            if message.offset() >= ends[message.partition()] - 1:
                left.discard(message.partition())
        return found
    finally:
        consumer.close()


def download(run: Any, topic: str, directory: Path) -> bool:
    """Read a topic's archived records of the capture into parquet files; whether there are any.

    Those of the generated market after it would make the replay longer with each test before.
    """
    directory.mkdir(exist_ok=True)
    store = ArchiveStore(run.mesh.read(S3Settings))
    tables = [table for day in store.dates(topic) for _, table in read_day(store, topic, day)]
    for number, table in enumerate(tables):
        appended = table.column("timestamp").cast(pa.timestamp("us", "UTC")).cast(pa.int64())
        begin, end = run.played
        rows = table.filter([begin <= time <= end for time in appended.to_pylist()])
        pq.write_table(rows, directory / f"{number}.parquet")
    return bool(tables)
