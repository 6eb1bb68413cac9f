"""A bounded HTTP/1.1 load: several connections, each with one request at a time.

It runs in a separate process, so that its cost is not counted with the servers.
"""

import argparse
import asyncio
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast


class Connection(asyncio.Protocol):
    """Send the next request when the response is complete."""

    def __init__(self, numbers: Iterator[int], build: Callable[[int], bytes]) -> None:
        self._numbers, self._build = numbers, build
        self._buffer, self._need = bytearray(), -1
        self.latencies: list[float] = []
        self.bytes = self.failures = 0
        self.running = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start."""
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def _send(self) -> None:
        self._began = time.perf_counter()
        self._transport.write(self._build(next(self._numbers)))

    def data_received(self, data: bytes) -> None:
        """Process a part of a response."""
        self._buffer += data
        if self._need < 0:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._buffer[:end]).lower()
            if not head.startswith(b"http/1.1 200"):
                self.failures += 1
            at = head.index(b"content-length:") + 15
            self._need = end + 4 + int(head[at:].split(b"\r\n", 1)[0])
        if len(self._buffer) >= self._need:
            self.latencies.append(time.perf_counter() - self._began)
            self.bytes += self._need
            self._buffer.clear()
            self._need = -1
            if self.running:
                self._send()
            else:
                self._transport.close()


async def main() -> None:
    """Print the counts as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--paths", type=Path, required=True, help="one a line, taken in turn")
    parser.add_argument("--prefix", default="", help="goes before each path")
    parser.add_argument("--first", type=int, default=0, help="the line to begin with")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3)
    options = parser.parse_args()

    paths = options.paths.read_text().splitlines()

    def build(number: int) -> bytes:
        path = options.prefix + paths[number % len(paths)]
        return f"GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n".encode()

    numbers = itertools.count(options.first)
    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(lambda: Connection(numbers, build), "127.0.0.1", options.port)
        for _ in range(options.connections)
    ]
    began = time.perf_counter()
    await asyncio.sleep(options.seconds)
    spent = time.perf_counter() - began
    connections = [protocol for _, protocol in made]
    found = sorted(value for one in connections for value in one.latencies)
    for one in connections:
        one.running = False
    print(
        json.dumps(
            {
                "requests": len(found),
                "per_second": len(found) / spent,
                "failures": sum(one.failures for one in connections),
                "bytes": sum(one.bytes for one in connections) // max(1, len(found)),
                "p50_ms": found[len(found) // 2] * 1000 if found else None,
                "p99_ms": found[len(found) * 99 // 100] * 1000 if found else None,
            }
        )
    )


asyncio.run(main())
