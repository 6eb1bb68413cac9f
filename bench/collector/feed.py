"""An exchange that sends a capture's frames for several symbols as fast as the client reads.

It answers the preceding requests of both sides: exchangeInfo, depth, time and SUBSCRIBE. Frames are
sent after `GET /go`; each further symbol is a renamed copy of the first.
"""

import asyncio
import json
import struct
import sys
from typing import Any

from aiohttp import WSMsgType, web
from frames import capture_path, read

CHUNK = 200


def framed(payload: bytes) -> bytes:
    """Return a complete WebSocket text frame."""
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size < 1 << 16:
        return struct.pack(">BBH", 0x81, 126, size) + payload
    return struct.pack(">BBQ", 0x81, 127, size) + payload


def symbols(count: int, part: int) -> list[str]:
    """Return `count` names of the same length; part 0 begins with the recorded one."""
    names = [f"{chr(ord('C') + part)}{n:02d}USDT" for n in range(count)]
    return names if part else ["BTCUSDT", *names[1:]]


class Feed:
    """The server."""

    def __init__(self, count: int, part: int, *, aggregated: bool) -> None:
        self.symbols = symbols(count, part)
        self.snapshot, frames = read(capture_path(), aggregated=aggregated)
        self.chunks = [
            b"".join(
                framed(
                    frame.replace(b"BTCUSDT", name.encode()).replace(
                        b"btcusdt", name.lower().encode()
                    )
                )
                for frame in frames[start : start + CHUNK]
                for name in self.symbols
            )
            for start in range(0, len(frames), CHUNK)
        ]
        self.go = asyncio.Event()

    async def info(self, _: web.Request) -> web.Response:
        """Return exchangeInfo."""
        entry: dict[str, Any] = {
            "status": "TRADING",
            "quoteAsset": "USDT",
            "filters": [{"filterType": "PRICE_FILTER", "tickSize": "0.01000000"}],
        }
        entries = [{"symbol": n, "baseAsset": n.removesuffix("USDT")} | entry for n in self.symbols]
        return web.json_response({"symbols": entries, "rateLimits": []})

    async def depth(self, _: web.Request) -> web.Response:
        """Return the recorded snapshot."""
        return web.Response(body=self.snapshot, content_type="application/json")

    async def time(self, _: web.Request) -> web.Response:
        """Return a constant time."""
        return web.json_response({"serverTime": 1})

    async def start(self, _: web.Request) -> web.Response:
        """Start sending."""
        self.go.set()
        return web.Response()

    async def stream(self, request: web.Request) -> web.WebSocketResponse:
        """Answer SUBSCRIBE; send all frames once started."""
        socket = web.WebSocketResponse(compress=False, autoping=True)
        await socket.prepare(request)
        sending = asyncio.create_task(self.send(request))
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                number = json.loads(message.data)["id"]
                await socket.send_str(json.dumps({"result": None, "id": number}))
        sending.cancel()
        return socket

    async def send(self, request: web.Request) -> None:
        """Write whole chunks, waiting while the client is behind."""
        await self.go.wait()
        transport = request.transport
        assert transport is not None
        transport.set_write_buffer_limits(high=1 << 20)  # type: ignore[attr-defined]
        for chunk in self.chunks:
            size = transport.get_write_buffer_size()  # type: ignore[attr-defined]
            while size > 1 << 20:
                await asyncio.sleep(0.001)
                size = transport.get_write_buffer_size()  # type: ignore[attr-defined]
            transport.write(chunk)  # type: ignore[attr-defined]


async def main() -> None:
    """Serve on a free port and print it."""
    feed = Feed(int(sys.argv[1]), int(sys.argv[2]), aggregated=sys.argv[3] == "aggregated")
    app = web.Application()
    app.router.add_get("/api/v3/exchangeInfo", feed.info)
    app.router.add_get("/api/v3/depth", feed.depth)
    app.router.add_get("/api/v3/time", feed.time)
    app.router.add_get("/stream", feed.stream)
    app.router.add_get("/go", feed.start)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
