"""Repeated renewals of five-minute certificates under load: failures and pauses.

REST requests are sent at a fixed rate regardless of response times. In addition one prober each
checks five times a second that the following continue: trades in Kafka, bars published by Spark,
Redis, the registry, the object store. A pause is the longest time that a prober had to wait. After
each renewal the key of users' tokens, all Redis passwords and all S3 keys are rotated too.

    .venv/bin/python bench/rotation/rotation.py [--rate 200] [--renewals 3] [--life 300]
"""

import argparse
import asyncio
import contextlib
import json
import shutil
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
import httpx
from confluent_kafka import Consumer, TopicPartition
from redis import Redis

from coinmesh_contracts import topics
from coinmesh_contracts.topics import Topic
from coinmesh_local import listeners, local_user
from coinmesh_local.static_credentials import rotate
from coinmesh_local.testing import TestMesh, eventually
from meshkit.errors import Unavailable
from meshkit.kafka import client_config, client_log
from meshkit.redis_options import redis_options
from meshkit.settings import KafkaSettings, RedisSettings
from meshkit.tls import trusting_ssl_context

LOOK_SECONDS = 0.2
NOTED_SECONDS = 3.0
EVENTS = 200
TOKEN_SECONDS = 300.0
BTC = "/v1/instruments/binance.BTC-USDT"
PATHS = {
    "ticker": f"{BTC}/ticker",
    "bars (Cassandra)": f"{BTC}/bars?interval=1m&page_size=50",
    "chart (Redis)": f"{BTC}/bars:view?interval=1m&page_size=100",
    "book": f"{BTC}/book",
    "collector": "/v1/collectors/binance/subscriptions",
}


@dataclass
class Found:
    """Observations of the run."""

    answers: Counter[str] = field(default_factory=Counter)
    slowest: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    pauses: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    serials: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    #: Events: seconds since the start, and text.
    events: list[tuple[float, str]] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def note(self, what: str) -> None:
        """Record an event with its time, to correlate it with the logs."""
        self.events.append((round(time.monotonic() - self.began, 1), what))


class Prober(threading.Thread):
    """Check periodically until `moved` is true; its longest wait is the pause."""

    def __init__(self, name: str, moved: Callable[[], bool], found: Found) -> None:
        super().__init__(daemon=True)
        self._what, self._moved, self._found = name, moved, found
        self.stop = threading.Event()

    def run(self) -> None:
        """Run until `stop` is set."""
        last = time.monotonic()
        while not self.stop.wait(LOOK_SECONDS):
            try:
                moved = self._moved()
            except Exception:
                moved = False
            now = time.monotonic()
            self._found.pauses[self._what] = max(self._found.pauses[self._what], now - last)
            if moved:
                if now - last > NOTED_SECONDS:
                    self._found.note(f"{self._what}: {now - last:.1f} s without")
                last = now


def grows(mesh: TestMesh, topic: Topic) -> Callable[[], bool]:
    """Return a check whether a topic has more records than at the previous check."""
    places = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
    state: dict[str, Any] = {"serial": 0, "end": 0}

    def moved() -> bool:
        if state["serial"] != (serial := listeners.issued_serial(mesh, "deploy")):
            config = client_config(mesh.read(KafkaSettings), "bench") | {"group.id": "bench"}
            state.update(serial=serial, consumer=Consumer(config, logger=client_log()))
        ends = [state["consumer"].get_watermark_offsets(place, timeout=2)[1] for place in places]
        before, state["end"] = state["end"], sum(ends)
        return state["end"] > before

    return moved


def gaps(mesh: TestMesh) -> int:
    """Return the number of gap records: each missing event creates one."""
    config = client_config(mesh.read(KafkaSettings), "bench") | {"group.id": "bench"}
    consumer = Consumer(config, logger=client_log())
    places = [TopicPartition(topics.GAPS.name, n) for n in range(topics.GAPS.partitions)]
    found = sum(consumer.get_watermark_offsets(place, timeout=10)[1] for place in places)
    consumer.close()
    return found


def answers(mesh: TestMesh, url: str) -> Callable[[], bool]:
    """Return a check whether a new connection gets a response."""
    return lambda: httpx.get(url, verify=mesh.tls(), timeout=2).is_success


def pings(mesh: TestMesh) -> Callable[[], bool]:
    """Return a check whether Redis responds on a persistent connection."""
    settings = mesh.read(RedisSettings)
    client = Redis.from_url(settings.redis_url, **redis_options(settings))
    return lambda: bool(client.ping())


async def load(mesh: TestMesh, rate: float, ends: Callable[[], bool], found: Found) -> None:
    """Send requests at a rate, each in a separate task, until `ends`."""
    pending: set[asyncio.Task[None]] = set()
    names = list(PATHS)
    tls = trusting_ssl_context(mesh.home.ca)
    headers = {"Authorization": f"Bearer {local_user.token(mesh.mesh)}"}

    async def log_in() -> None:
        while True:
            await asyncio.sleep(TOKEN_SECONDS)
            # The old token is valid for ten more minutes.
            with contextlib.suppress(Unavailable):
                token = await asyncio.to_thread(local_user.token, mesh.mesh)
                headers["Authorization"] = f"Bearer {token}"

    async with (
        aiohttp.ClientSession(
            mesh.endpoints["rest"],
            connector=aiohttp.TCPConnector(ssl=tls),
            timeout=aiohttp.ClientTimeout(30),
        ) as client,
        asyncio.TaskGroup() as group,
    ):
        login = group.create_task(log_in())

        async def one(name: str) -> None:
            began = time.monotonic()
            try:
                async with client.get(PATHS[name], headers=headers) as reply:
                    body = await reply.text()
                    outcome = str(reply.status)
                if reply.status != HTTPStatus.OK:
                    found.note(f"{name}: {reply.status} {body[:200]}")
            except (aiohttp.ClientError, TimeoutError) as error:
                outcome = f"{name}: {error!r}"
                found.note(outcome)
            found.answers[outcome] += 1
            found.slowest[name] = max(found.slowest[name], time.monotonic() - began)

        began, count = time.monotonic(), 0
        while not ends():
            task = asyncio.create_task(one(names[count % len(names)]))
            pending.add(task)
            task.add_done_callback(pending.discard)
            count += 1
            await asyncio.sleep(max(0.0, began + count / rate - time.monotonic()))
        await asyncio.gather(*pending)
        login.cancel()


def watch(
    mesh: TestMesh, renewals: int, rotating: bool, found: Found, over: threading.Event
) -> None:
    """Record each listener's certificates until each has served `renewals` new ones."""
    rotations = 0
    closed = listeners.closed(mesh)
    while not over.is_set():
        visitor = listeners.of_the_mesh(mesh, "deploy")
        for each in closed:
            serial = listeners.served(each, visitor)
            if serial > 0:
                found.serials[f"{each.component} {each.name}"].add(serial)
        least = min(map(len, found.serials.values())) - 1
        if rotating and least > rotations:
            found.note(f"renewal {least} is done; rotation begins")
            rotate(mesh.mesh)
            found.note("rotation ends")
            rotations += 1
        if least >= renewals:
            over.set()
        over.wait(2)


def main() -> None:
    """Print failures, the longest pauses, and the number of served certificates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=200, help="requests a second")
    parser.add_argument("--renewals", type=int, default=3)
    parser.add_argument("--life", type=int, default=300, help="a certificate's life in seconds")
    parser.add_argument("--certificates-only", action="store_true", help="rotate no credential")
    parser.add_argument("--keep", type=Path, help="a new directory for the logs")
    options = parser.parse_args()
    if options.keep and options.keep.exists():
        parser.error(f"--keep: {options.keep} exists; name a new directory")
    environment = {"COINMESH_CERT_TTL": str(options.life), "COINMESH_SIM_CAPTURE": ""}
    with (
        tempfile.TemporaryDirectory(prefix="coinmesh-bench-") as root,
        TestMesh(Path(root) / "mesh", environment=environment) as mesh,
    ):
        mesh.require("spark-stream", "collector-binance", "envoy", "audit-anchor")
        with mesh.rest() as client:
            eventually(lambda: client.get(PATHS["bars (Cassandra)"]).json().get("bars"), "a bar")
        found, over = Found(), threading.Event()
        seen = {
            "trades reach Kafka": grows(mesh, topics.TRADES),
            "bars are published": grows(mesh, topics.BARS),
            "Redis": pings(mesh),
            "registry": answers(mesh, f"{mesh.endpoints['registry']}/subjects"),
            "object store": answers(mesh, f"{mesh.endpoints['s3']}/healthz"),
        }
        probers = [Prober(name, moved, found) for name, moved in seen.items()]
        watcher = threading.Thread(
            target=watch, args=(mesh, options.renewals, not options.certificates_only, found, over)
        )
        for thread in (*probers, watcher):
            thread.start()
        longest = options.life * (options.renewals + 1)
        asyncio.run(
            load(
                mesh,
                options.rate,
                lambda: over.is_set() or time.monotonic() > found.began + longest,
                found,
            )
        )
        over.set()
        for prober in probers:
            prober.stop.set()
        for thread in (*probers, watcher):
            thread.join()
        if options.keep:
            shutil.copytree(mesh.home.logs, options.keep)
        print(
            json.dumps(
                {
                    "seconds": round(time.monotonic() - found.began),
                    "answers": found.answers,
                    "gaps": gaps(mesh),
                    "slowest_s": {name: round(s, 3) for name, s in found.slowest.items()},
                    "longest_pause_s": {name: round(s, 2) for name, s in found.pauses.items()},
                    "events": len(found.events),
                    "first_events": found.events[:EVENTS],
                    "certificates_served": {n: len(s) for n, s in sorted(found.serials.items())},
                },
                indent=2,
            )
        )


if __name__ == "__main__":
    main()
