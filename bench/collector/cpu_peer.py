"""The same for cryptofeed: its Binance feed with its Kafka callbacks, up to the JSON bytes.

Its queue and its producer are excluded, in its favour.
"""

import asyncio
import sys
import time
from pathlib import Path

from cryptofeed.backends.kafka import BookKafka, TickerKafka, TradeKafka
from cryptofeed.defines import L2_BOOK, TICKER, TRADES
from cryptofeed.exchanges import Binance
from cryptofeed.symbols import Symbols
from frames import read


class ToBytes:
    """Convert queued data to the bytes that a callback would send."""

    count = 0

    async def write(self, data: dict) -> None:
        """Build topic, key and value like `KafkaCallback.writer`."""
        self.topic(data)
        self._default_serializer(data)
        self._default_serializer(self.key)
        ToBytes.count += 1


class Trades(ToBytes, TradeKafka):
    """Trades."""


class Books(ToBytes, BookKafka):
    """Books."""


class Tickers(ToBytes, TickerKafka):
    """Quotes."""


class Rest:
    """Answer the feed's request for a snapshot."""

    def __init__(self, snapshot: bytes) -> None:
        self._snapshot = snapshot.decode()

    async def read(self, address: str, **_: object) -> str:
        """Return the recorded snapshot."""
        return self._snapshot


async def run(snapshot: bytes, frames: list[str]) -> float:
    """Return the CPU seconds of one pass with a new feed."""
    feed = Binance(
        symbols=["BTC-USDT"],
        channels=[TRADES, L2_BOOK, TICKER],
        callbacks={TRADES: Trades(), L2_BOOK: Books(), TICKER: Tickers()},
    )
    feed.http_conn = Rest(snapshot)
    began = time.process_time()
    for number, frame in enumerate(frames):
        await feed.message_handler(frame, None, 1_723_161_253.9 + number * 0.008)
    return time.process_time() - began


def main() -> None:
    """Answer each line with "seconds frames records"."""
    Symbols.set("BINANCE", {"BTC-USDT": "BTCUSDT"}, {"tick_size": {}, "instrument_type": {}})
    snapshot, raw = read(Path(sys.argv[1]), aggregated=True)
    frames = [frame.decode() for frame in raw]
    for _ in sys.stdin:
        ToBytes.count = 0
        seconds = asyncio.run(run(snapshot, frames))
        print(seconds, len(frames), ToBytes.count, flush=True)


main()
