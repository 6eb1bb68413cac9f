"""Chart view of 500 bars through Envoy: the gateway against FastAPI + orjson for the same work.

Both are behind one Envoy, read one Cassandra and one Redis, and are measured alternately: cold
(each request has another end, a minute apart, so that nothing is cached) and warm (one URL). The
result is the ratio of requests per second, and of CPU time per request of server and Envoy
together, which other load on the machine affects less.

    .venv/bin/python bench/gateway/chart.py [--rounds 5] [--seconds 3]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil
from market import COMPONENTS, PRICE, bar, instrument, send, start_gateway, store

from coinmesh_local.testing import TestMesh, eventually
from meshkit.authz import User, stated

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from peers import BIN, peer_python  # noqa: E402 (beside this folder)

NAME = "binance.BTC-USDT"
QUERY = f"/v1/instruments/{NAME}/bars:view?interval=1m&page_size=500&end_time="
DAY_MS, MINUTE_MS = 86_400_000, 60_000
DAYS = 14


def free_port() -> int:
    """Return a port that is free now."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def envoy_config(path: Path, public: int, gateway: str, peer: int, tls_dir: Path) -> None:
    """Write the mesh's own configuration, with a route to the peer before the others."""
    command = [
        BIN / "coinmesh-envoy-config", "--out", path, "--listen", f"127.0.0.1:{public}",
        "--admin", path.with_name("admin.sock"), "--service", f"query-gateway={gateway}",
        "--service", "collector-binance=127.0.0.1:1", "--tls-dir", tls_dir,
    ]  # fmt: skip
    subprocess.run(command, check=True)
    config = json.loads(path.read_text())
    resources = config["static_resources"]
    endpoint = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": peer}}}
    resources["clusters"].append(
        {
            "name": "peer",
            "type": "STATIC",
            "load_assignment": {
                "cluster_name": "peer",
                "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}],
            },
        }
    )
    # The load generator uses plaintext; Envoy uses TLS to the gateway, but not to the peer.
    del resources["listeners"][0]["filter_chains"][0]["transport_socket"]
    off = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": True}
    manager = resources["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    names = {one["name"] for one in manager["http_filters"]}
    disabled = [name for name in names if "transcoder" in name or "buffer" in name]
    # Token verification isn't measured: it is the same for any service behind Envoy.
    known = [
        {"append": {"header": {"key": key, "value": value}}}
        for key, value in stated(User("bench", ("viewer",), "bench"))
    ]
    mutation = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3."
        "HeaderMutation",
        "mutations": {"request_mutations": known},
    }
    manager["http_filters"].insert(
        0, {"name": "envoy.filters.http.header_mutation", "typed_config": mutation}
    )
    manager["route_config"]["virtual_hosts"][-1]["routes"].insert(
        0,
        {
            "match": {"prefix": "/peer/"},
            "route": {"cluster": "peer"},
            "typed_per_filter_config": dict.fromkeys(disabled, off),
        },
    )
    path.write_text(json.dumps(config))


def cpu(processes: list[psutil.Process]) -> float:
    """Return the processes' CPU seconds so far."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


Figures = dict[str, float]


def measure(
    port: int,
    prefix: str,
    paths: Path,
    first: int,
    seconds: float,
    servers: list[psutil.Process],
) -> Figures:
    """Run one interval of load; return its counts, with CPU milliseconds per request."""
    before = cpu(servers)
    command = [
        sys.executable, HERE / "load.py", "--port", str(port), "--prefix", prefix,
        "--paths", paths, "--first", str(first), "--seconds", str(seconds),
    ]  # fmt: skip
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads(out)
    assert found["failures"] == 0, found
    found["cpu_ms"] = (cpu(servers) - before) * 1000 / found["requests"]
    return found


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    options = parser.parse_args()
    python = peer_python(HERE)
    with tempfile.TemporaryDirectory(prefix="coinmesh-bench-") as text:
        root = Path(text)
        with TestMesh(root / "mesh") as mesh:
            mesh.require(*COMPONENTS)
            run(mesh, root, python, options.rounds, options.seconds)


def run(mesh: TestMesh, root: Path, python: Path, rounds: int, seconds: float) -> None:
    """Run the servers, write the data and measure the rounds."""
    end = int(time.time() * 1000) // DAY_MS * DAY_MS
    begin = end - DAYS * DAY_MS
    minutes = enumerate(range(begin, end, MINUTE_MS))
    store(mesh, NAME, "1m", [bar(NAME, at, price=PRICE + n * 1_000_000) for n, at in minutes])
    store(mesh, NAME, "1d", [bar(NAME, at, "1d") for at in range(begin, end, DAY_MS)])
    send(mesh, instrument(NAME), bar(NAME, end - MINUTE_MS), bar(NAME, end + 60 * MINUTE_MS))
    gateway, address = start_gateway(mesh, BIN / "query-gateway", root / "gateway.log")
    peer_port, public = free_port(), free_port()
    children = [
        gateway,
        subprocess.Popen(
            [python, "-m", "uvicorn", "peer:app", "--port", str(peer_port), "--loop", "uvloop",
             "--http", "httptools", "--no-access-log", "--log-level", "warning"],
            cwd=HERE, env={**os.environ, **mesh.settings_of("query-gateway")},
        ),
    ]  # fmt: skip
    try:
        config = root / "envoy.json"
        envoy_config(config, public, address, peer_port, mesh.home.tls / "envoy")
        command = [BIN / "envoy", "-c", config, "--concurrency", "1", "--disable-hot-restart"]
        with (root / "envoy.log").open("w") as log:
            children.append(subprocess.Popen([*command, "--log-level", "error"], stdout=log))
        ends = DAYS * 1440 - 500  # the number of charts of 500 bars
        times = [datetime.fromtimestamp((end - n * MINUTE_MS) / 1000, UTC) for n in range(ends)]
        warm, cold = root / "warm.txt", root / "cold.txt"
        cold.write_text("\n".join(f"{QUERY}{at:%Y-%m-%dT%H:%M:%SZ}" for at in times))
        warm.write_text(cold.read_text().partition("\n")[0])
        check(public, warm.read_text())
        servers = {
            "ours": [psutil.Process(children[0].pid), psutil.Process(children[2].pid)],
            "peer": [psutil.Process(children[1].pid), psutil.Process(children[2].pid)],
        }
        results: dict[tuple[str, str], list[Figures]] = {}
        first = 0
        for number in range(rounds):
            order = ["ours", "peer"] if number % 2 else ["peer", "ours"]
            for kind in ("cold", "warm"):
                for who in order:
                    prefix = "/peer" if who == "peer" else ""
                    paths = cold if kind == "cold" else warm
                    found = measure(public, prefix, paths, first, seconds, servers[who])
                    first += int(found["requests"]) + 100 if kind == "cold" else 0
                    results.setdefault((kind, who), []).append(found)
        report(results)
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.wait(60)


def check(public: int, path: str) -> None:
    """Verify that both return the same chart."""

    def get(prefix: str) -> dict | None:
        try:
            reply = httpx.get(f"http://127.0.0.1:{public}{prefix}{path}", timeout=10)
        except httpx.TransportError:
            return None
        assert reply.status_code in (200, 503), reply.text
        return reply.json() if reply.status_code == 200 else None

    ours = eventually(lambda: get(""), "the gateway answers through Envoy", 180)
    peer = eventually(lambda: get("/peer"), "the peer answers through Envoy", 60)
    assert ours == peer
    assert len(ours["startTime"]) == 500


def report(results: dict[tuple[str, str], list[Figures]]) -> None:
    """Print medians, and the medians of the rounds' ratios."""
    names = {"ours": "query-gateway", "peer": "FastAPI + orjson"}
    print("| | requests/s | CPU ms/request (server + Envoy) | p50 ms | p99 ms |")
    print("| --- | --- | --- | --- | --- |")
    for (kind, who), found in sorted(results.items()):
        middle = {key: statistics.median(one[key] for one in found) for key in found[0]}
        print(
            f"| {kind}: {names[who]} | {middle['per_second']:.0f} | {middle['cpu_ms']:.2f} | "
            f"{middle['p50_ms']:.1f} | {middle['p99_ms']:.1f} |"
        )
    for kind in ("cold", "warm"):
        pairs = list(zip(results[kind, "ours"], results[kind, "peer"], strict=True))
        speed = statistics.median(a["per_second"] / b["per_second"] for a, b in pairs)
        cheap = statistics.median(b["cpu_ms"] / a["cpu_ms"] for a, b in pairs)
        print(f"{kind}: {speed:.2f} x the requests/s, {cheap:.2f} x the requests per CPU second")


if __name__ == "__main__":
    main()
