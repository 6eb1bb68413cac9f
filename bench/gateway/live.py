"""Exchange frame → quote on the live stream: age of a quote when a subscriber receives it.

The simulated exchange, collector, Kafka, gateway and Envoy run as in the mesh; a quote carries the
time at which the collector received its frame, and the subscriber reads the same machine's clock
after parsing the message. The subscriber is a separate process.

    .venv/bin/python bench/gateway/live.py [--rate 200] [--seconds 20]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import grpc

from coinmesh_contracts.market.v1 import market_service_pb2 as api
from coinmesh_contracts.market.v1.market_service_pb2_grpc import MarketServiceStub
from coinmesh_local import local_user
from coinmesh_local.testing import TestMesh, eventually


def connect(address: str, ca: str) -> grpc.Channel:
    """Return a channel to Envoy, with the token in COINMESH_TOKEN."""
    roots = grpc.ssl_channel_credentials(Path(ca).read_bytes())
    user = grpc.access_token_call_credentials(os.environ["COINMESH_TOKEN"])
    return grpc.secure_channel(address, grpc.composite_channel_credentials(roots, user))


def read(address: str, ca: str, names: list[str], seconds: float) -> None:
    """Print the quotes' ages as JSON: count, p50, p99 and maximum in milliseconds."""
    with connect(address, ca) as channel:
        request = api.StreamMarketRequest(instruments=names, channels=["quote"])
        ages: list[float] = []
        begin = time.time() + 3  # warm by then
        for message in MarketServiceStub(channel).StreamMarket(request):
            now = time.time_ns()
            if message.HasField("gap"):
                raise SystemExit(f"the reader was too slow: {message.gap}")
            if now / 1e9 >= begin:
                for event in message.batch.events:
                    received = event.quote.receive_time
                    ages.append((now - received.seconds * 10**9 - received.nanos) / 1e6)
            if now / 1e9 >= begin + seconds:
                break
    ages.sort()
    found = {
        "quotes": len(ages),
        "per_second": len(ages) / seconds,
        "p50_ms": ages[len(ages) // 2],
        "p99_ms": ages[len(ages) * 99 // 100],
        "max_ms": ages[-1],
    }
    print(json.dumps(found))


def main() -> None:
    """Start the mesh and print a row for each round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=200, help="trades a second, all instruments")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--read", nargs="+", metavar=("ADDRESS", "CA"))
    options = parser.parse_args()
    if options.read:
        read(options.read[0], options.read[1], options.read[2:], options.seconds)
        return
    environment = {
        "COINMESH_SIM_RATE": str(options.rate),
        "COINMESH_SIM_SYMBOLS": "10",
        "COINMESH_SIM_CAPTURE": "",
    }
    with (
        tempfile.TemporaryDirectory(prefix="coinmesh-bench-") as root,
        TestMesh(Path(root) / "mesh", environment=environment) as mesh,
    ):
        mesh.require("collector-binance", "query-gateway", "envoy")
        os.environ["COINMESH_TOKEN"] = local_user.token(mesh.mesh)
        address, ca = mesh.endpoints["grpc"], str(mesh.home.ca)
        names = eventually(lambda: instruments(address, ca), "instruments are listed", 60)
        for _ in range(options.rounds):
            command = [sys.executable, __file__, "--seconds", str(options.seconds), "--read"]
            subprocess.run([*command, address, ca, *names], check=True)


def instruments(address: str, ca: str) -> list[str]:
    """Return the names of all instruments, through Envoy."""
    with connect(address, ca) as channel:
        found = MarketServiceStub(channel).ListInstruments(api.ListInstrumentsRequest())
        return [one.name for one in found.instruments]


if __name__ == "__main__":
    main()
