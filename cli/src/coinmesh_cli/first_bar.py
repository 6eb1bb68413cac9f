"""Wait until the mesh serves a new bar through its public listener."""

import time
from typing import Any

import httpx

from coinmesh_cli.progress import Progress
from coinmesh_local import local_user
from coinmesh_local.control import SupervisorError
from coinmesh_local.mesh import Mesh
from meshkit.tls import trusting_ssl_context

DEADLINE = 600.0


def wait_for_first_bar(mesh: Mesh, progress: Progress) -> None:
    """Poll `/v1/instruments`, then their bars; SupervisorError when none appears in ten minutes.

    A bar that exists at the first poll may be from an earlier run: only a newer or updated one
    counts.
    """
    deadline = time.monotonic() + DEADLINE
    earlier: dict[str, tuple[str, int]] | None = None
    why = "no instrument yet"
    progress.note("waiting for the first bar")
    rest = mesh.endpoints()["rest"]
    trusted = trusting_ssl_context(str(rest["ca"]))
    bearer = local_user.Bearer(mesh)
    with httpx.Client(base_url=str(rest["url"]), verify=trusted, auth=bearer, timeout=10) as client:
        while time.monotonic() < deadline:
            try:
                bars = _newest_bars(client)
                versions = {name: (bar["startTime"], bar["revision"]) for name, bar in bars.items()}
                if earlier is None:
                    earlier = versions
                    new = []
                else:
                    new = [name for name in versions if versions[name] != earlier.get(name)]
                if new:
                    bar = bars[new[0]]
                    progress.note(f"first bar: {new[0]} {bar['startTime']} {bar['close']}")
                    return
                why = f"no new bar of {', '.join(bars)}" if bars else "no bar yet"
            except httpx.HTTPError as error:
                why = str(error)
            progress.note(f"waiting for the first bar: {why}")
            time.sleep(0.5)
    raise SupervisorError(
        f"the mesh runs, but no bar was served within {DEADLINE:.0f} s ({why}): see "
        "`coinmesh status`, `coinmesh logs spark-stream` and `coinmesh logs query-gateway`"
    )


def _newest_bars(client: httpx.Client) -> dict[str, dict[str, Any]]:
    """Return the newest one-minute bar of each of the first instruments."""
    listed = client.get("/v1/instruments", params={"page_size": 5}).raise_for_status().json()
    newest: dict[str, dict[str, Any]] = {}
    for instrument in listed["instruments"]:
        name = instrument["name"]
        answer = client.get(
            f"/v1/instruments/{name}/bars", params={"interval": "1m", "page_size": 1}
        )
        for bar in answer.raise_for_status().json()["bars"]:
            newest[name] = bar
    return newest
