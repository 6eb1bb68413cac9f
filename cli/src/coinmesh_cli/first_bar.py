"""Waits until the mesh serves a bar to a visitor, as a visitor would ask for it."""

import time
from typing import Any

import httpx

from coinmesh_cli.progress import Progress
from coinmesh_local.control import SupervisorError

DEADLINE = 600.0


def wait_for_first_bar(rest: dict[str, Any], progress: Progress) -> None:
    """Poll `/v1/instruments`, then their bars; SupervisorError when none comes in ten minutes."""
    deadline = time.monotonic() + DEADLINE
    why = "no instrument yet"
    progress.note("waiting for the first bar")
    with httpx.Client(base_url=rest["url"], verify=rest["ca"] or True, timeout=10) as client:
        while time.monotonic() < deadline:
            try:
                listed = client.get("/v1/instruments").raise_for_status().json()
                for instrument in listed.get("instruments", []):
                    name = instrument.get("name") or instrument["instrument"]
                    bar = _first_bar(client, str(name).removeprefix("instruments/"))
                    if bar is not None:
                        progress.note(f"first bar: {name} {bar['startTime']} {bar['close']}")
                        return
                    why = f"no bar of {name} yet"
            except httpx.HTTPError as error:
                why = str(error)
            progress.note(f"waiting for the first bar: {why}")
            time.sleep(0.5)
    raise SupervisorError(
        f"the mesh runs, but no bar was served within {DEADLINE:.0f} s ({why}): see "
        "`coinmesh status`, `coinmesh logs spark-stream` and `coinmesh logs query-gateway`"
    )


def _first_bar(client: httpx.Client, instrument: str) -> dict[str, Any] | None:
    answer = client.get(
        f"/v1/instruments/{instrument}/bars", params={"interval": "1m", "page_size": 1}
    )
    bars = answer.raise_for_status().json().get("bars", [])
    return bars[0] if bars else None
