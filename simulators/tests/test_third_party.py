"""An unmodified third-party client (python-binance) keeps a correct book from this exchange."""

import asyncio
import json
from bisect import bisect_right

import pytest
from aiohttp import WSMsgType

pytestmark = pytest.mark.slow

binance = pytest.importorskip("binance")

Top = tuple[float, float, float, float]


class Truth:
    """The best bid and ask after every depth event, from a connection of its own."""

    def __init__(self) -> None:
        self._quotes: list[tuple[int, Top]] = []
        self._events: dict[int, int] = {}
        self._news = asyncio.Event()

    async def listen(self, ws) -> None:
        """Take everything the connection brings."""
        async for message in ws:
            assert message.type is WSMsgType.TEXT
            data = json.loads(message.data)["data"]
            if data.get("e") == "depthUpdate":
                self._events[data["E"]] = data["u"]
                self._news.set()
            else:
                top = tuple(float(data[k]) for k in "bBaA")
                self._quotes.append((data["u"], top))  # type: ignore[arg-type]

    async def top(self, event_time: int) -> Top | None:
        """The last quote not newer than the depth event of that time; None before any quote."""
        while event_time not in self._events:
            self._news.clear()
            await self._news.wait()
        update_id = self._events[event_time]
        position = bisect_right(self._quotes, update_id, key=lambda quote: quote[0])
        return self._quotes[position - 1][1] if position else None


async def follow(sim, market_seconds: float, interval: int) -> tuple[int, list[object]]:
    """Compare the client's book with the truth; returns how often it fitted, and what didn't.

    python-binance asks for its snapshot before it listens, meets a gap, fetches another and then
    applies older events to it: its book is right once they have caught up, and from then on.
    """
    client = binance.AsyncClient()
    client.API_URL = f"{sim.base}/api"
    sockets = binance.BinanceSocketManager(client, max_queue_size=1_000_000)
    sockets.STREAM_URL = f"{sim.ws}/"
    manager = binance.ws.depthcache.DepthCacheManager(
        client, "BTCUSDT", bm=sockets, limit=5000, ws_interval=interval
    )
    fitted = 0
    wrong: list[object] = []
    truth = Truth()
    streams = f"btcusdt@bookTicker/btcusdt@depth{'@100ms' if interval == 100 else ''}"
    async with sim.connect(f"/stream?streams={streams}") as ws, manager:
        listening = asyncio.create_task(truth.listen(ws))
        await manager.recv()
        joined = now = (await sim.json("time"))["serverTime"]
        while now < joined + market_seconds * 1000:
            cache = await manager.recv()
            now = cache.update_time
            if now <= joined or now % 1_000:
                continue  # sorting its book for each tenth of a second is the client's cost
            bid, ask = cache.get_bids()[0], cache.get_asks()[0]
            expected = await truth.top(now)
            if expected == (*bid, *ask):
                fitted += 1
            else:
                wrong.append((now, expected, bid, ask))
        listening.cancel()
    await client.close_connection()
    return fitted, wrong


@pytest.mark.parametrize("interval", [100, 0])
async def test_python_binance_keeps_a_correct_book_for_ten_market_minutes(simulator, interval):
    sim = await simulator(symbols="BTCUSDT", rate=30, speed=60)
    fitted, wrong = await follow(sim, 600, interval)
    assert wrong == []
    assert fitted > 500
