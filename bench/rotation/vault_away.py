"""Vault stopped for ten minutes under load: failures and pauses.

    .venv/bin/python bench/rotation/vault_away.py [--rate 20] [--seconds 600]

Certificates are valid for an hour, and tokens for 15 minutes, so nothing is due in that time;
logins meanwhile fail with VAULT_UNAVAILABLE. Afterwards every component must have survived the
outage: the same processes, none restarted.
"""

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path

from rotation import PATHS, Found, Prober, gaps, grows, load, pings

from coinmesh_contracts import topics
from coinmesh_local import operations
from coinmesh_local.testing import TestMesh, eventually


def main() -> None:
    """Print the responses, the gaps, the longest pauses, and the restarted components."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=20, help="requests a second")
    parser.add_argument("--seconds", type=float, default=600, help="how long Vault is away")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="coinmesh-bench-") as root,
        TestMesh(Path(root) / "mesh", environment={"COINMESH_SIM_CAPTURE": ""}) as mesh,
    ):
        mesh.require("spark-stream", "collector-binance", "envoy", "audit-anchor")
        with mesh.rest() as client:
            eventually(lambda: client.get(PATHS["bars (Cassandra)"]).json().get("bars"), "a bar")
        found, before = Found(), running(mesh)
        seen = {
            "trades reach Kafka": grows(mesh, topics.TRADES),
            "bars are published": grows(mesh, topics.BARS),
            "Redis": pings(mesh),
        }
        probers = [Prober(name, moved, found) for name, moved in seen.items()]

        def away() -> bool:
            """Stop Vault after the first token is fetched; return True when the time is over."""
            if not begun:
                begun.append(time.monotonic())
                mesh.component("openbao").stop()
                for prober in probers:
                    prober.start()
            return time.monotonic() > begun[0] + options.seconds

        begun: list[float] = []
        asyncio.run(load(mesh, options.rate, away, found))
        for prober in probers:
            prober.stop.set()
        for prober in probers:
            prober.join()
        after = running(mesh)
        mesh.component("openbao").start()
        print(
            json.dumps(
                {
                    "answers": found.answers,
                    "gaps": gaps(mesh),
                    "slowest_s": {name: round(s, 3) for name, s in found.slowest.items()},
                    "longest_pause_s": {name: round(s, 2) for name, s in found.pauses.items()},
                    "not_the_same": sorted(
                        name for name in before if before[name] != after.get(name)
                    ),
                },
                indent=2,
            )
        )


def running(mesh: TestMesh) -> dict[str, object]:
    """Return component instances with their processes, without Vault."""
    rows = operations.status(mesh.mesh)
    return {row["name"]: row["pid"] for row in rows if row["component"] != "openbao"}


if __name__ == "__main__":
    main()
