"""cryptofeed with its own Kafka backend, all replicas acknowledging."""

import asyncio
import json
import ssl
import sys

import uvloop
from cryptofeed import FeedHandler, connection
from cryptofeed.backends.kafka import BookKafka, TickerKafka, TradeKafka
from cryptofeed.connection import RestEndpoint, Routes, WebsocketEndpoint
from cryptofeed.defines import L2_BOOK, TICKER, TRADES
from cryptofeed.exchanges import Binance

port, ours = sys.argv[1], json.loads(sys.argv[2])
# Kafka requires mutual TLS.
tls = ssl.create_default_context(cafile=ours["ssl.ca.location"])
tls.load_cert_chain(ours["ssl.certificate.location"], ours["ssl.key.location"])
# cryptofeed requires wss; plaintext is in its favour, and equal to the other side.
connect = connection.connect
connection.connect = lambda address, **more: connect(address.replace("wss:", "ws:"), **more)
Binance.websocket_endpoints = [WebsocketEndpoint(f"wss://127.0.0.1:{port}")]
Binance.rest_endpoints = [
    RestEndpoint(
        f"http://127.0.0.1:{port}",
        routes=Routes("/api/v3/exchangeInfo", l2book="/api/v3/depth?symbol={}&limit={}"),
    )
]
kafka = {
    "bootstrap_servers": ours["bootstrap.servers"],
    "acks": "all",
    "security_protocol": "SSL",
    "ssl_context": tls,
}
handler = FeedHandler(config={"uvloop": False, "log": {"disabled": True}})
handler.add_feed(
    Binance(
        symbols=["BTC-USDT"],
        channels=[TRADES, L2_BOOK, TICKER],
        callbacks={
            TRADES: TradeKafka(**kafka),
            L2_BOOK: BookKafka(**kafka),
            TICKER: TickerKafka(**kafka),
        },
    )
)
# cryptofeed's own switch to uvloop requires an event loop before one exists.
asyncio.set_event_loop(uvloop.new_event_loop())
handler.run()
