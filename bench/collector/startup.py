"""Collector benchmark: reading checkpoints at a start, with many symbols and a long history.

    .venv/bin/python bench/collector/startup.py [--symbols 1500] [--gaps 100000] [--trades 1000000]

Kafka is filled with a year's repaired gaps, trades from before the last round, rounds of
checkpoints of all symbols, and the trades of ten seconds after the last round. The start is then
measured three times.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from coinmesh_contracts import framing, topics
from coinmesh_contracts.events.v1.checkpoint_pb2 import Checkpoint
from coinmesh_contracts.events.v1.gap_pb2 import Gap, GapState
from coinmesh_contracts.events.v1.trade_pb2 import Trade
from coinmesh_local.testing import TestMesh
from coinmesh_sources import checkpoints
from collector_binance.restore import restore
from collector_binance.settings import CollectorSettings
from meshkit.kafka import client_config
from meshkit.producer import PRODUCER_CONFIG
from meshkit.settings import KafkaSettings

COLLECTOR = "collector-binance"
ROUNDS = 20
TAIL_SECONDS, TRADES_PER_SECOND = 10, 1000


class Log:
    """Write events of symbols like the collector, without their inputs."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._producer = Producer(client_config(settings, COLLECTOR) | dict(PRODUCER_CONFIG))

    def put(self, topic: topics.Topic, key: str, event: Any) -> None:
        """Queue an event; wait while the queue is full."""
        value = framing.header(1) + event.SerializeToString()
        while True:
            try:
                self._producer.produce(topic.name, value, key.encode())
                return
            except BufferError:
                self._producer.poll(0.1)

    def flush(self) -> None:
        self._producer.flush()


def names(number: int) -> dict[str, str]:
    """Return the event fields of a symbol."""
    return {
        "source": "binance",
        "symbol": f"S{number}USDT",
        "instrument": f"binance.S{number}-USDT",
    }


def fill(log: Log, symbols: int, gaps: int, trades: int) -> None:
    """Write the history and the tail."""
    for number in range(gaps):
        fields = names(number % symbols)
        gap = Gap(**fields, gap_id=f"g{number}", revision=1, channel="trade")
        gap.state = GapState.GAP_STATE_REPAIRED
        gap.ids.first = gap.ids.last = number + 1
        log.put(topics.GAPS, fields["instrument"], gap)
    for number in range(trades):
        put_trade(log, number % symbols, number // symbols + 1)
    log.flush()
    last = trades // symbols
    # The margin for clock differences: older records are not read.
    time.sleep(checkpoints.MARGIN.total_seconds() + 1)
    for _ in range(ROUNDS):
        for number in range(symbols):
            fields = names(number)
            for channel in ("trade", "book"):
                stream = f"{channel}:{fields['symbol']}"
                event = Checkpoint(**fields, stream=stream, last_id=last, subscribed=True, epoch=1)
                log.put(topics.CHECKPOINTS, f"binance/{stream}", event)
    stream = f"round:{COLLECTOR}"
    marker = Checkpoint(source="binance", stream=stream, receive_time=time.time_ns(), epoch=1)
    log.put(topics.CHECKPOINTS, f"binance/{stream}", marker)
    for number in range(TAIL_SECONDS * TRADES_PER_SECOND):
        put_trade(log, number % symbols, last + 1 + number // symbols)
    log.flush()


def put_trade(log: Log, number: int, trade_id: int) -> None:
    """Write one trade."""
    fields = names(number)
    trade = Trade(**fields, trade_id=trade_id, event_time=trade_id, publish_time=trade_id)
    log.put(topics.TRADES, fields["instrument"], trade)


async def start(settings: CollectorSettings) -> tuple[float, float, int]:
    """Return wall seconds, CPU seconds and symbols of one restored checkpoint."""
    began, cpu = time.perf_counter(), time.process_time()
    saved = await checkpoints.read(settings, "binance", COLLECTOR)
    restored = await restore(settings, saved)
    assert not any(left.gaps for left in restored.symbols.values())
    return time.perf_counter() - began, time.process_time() - cpu, len(restored.symbols)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--symbols", type=int, default=1500)
    parser.add_argument("--gaps", type=int, default=100_000)
    parser.add_argument("--trades", type=int, default=1_000_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, TestMesh(Path(place) / "mesh") as mesh:
        mesh.require("kafka", "topics", "schemas", "kafka-access")
        settings = mesh.read(CollectorSettings, service=COLLECTOR)
        fill(Log(settings), args.symbols, args.gaps, args.trades)
        runs = [asyncio.run(start(settings)) for _ in range(3)]
    print(
        f"{runs[0][2]} symbols, {args.gaps} gaps, {args.trades} trades before the round: "
        f"{statistics.median(run[0] for run in runs):.2f} s, "
        f"{statistics.median(run[1] for run in runs):.2f} s of CPU"
    )


if __name__ == "__main__":
    main()
