"""What `coinmesh status` concludes from probes that cost CPU time."""

import asyncio
from pathlib import Path

import pytest

from coinmesh_local.mesh import Mesh, Options
from coinmesh_local.paths import Home
from coinmesh_local.runner import Runner
from coinmesh_local.supervisor import PROBES_AT_ONCE, Supervisor

COMPONENTS = 3 * PROBES_AT_ONCE


async def test_status_gives_each_probe_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    definitions = tmp_path / "components"
    definitions.mkdir()
    for number in range(COMPONENTS):
        text = 'description = "x"\ncommand = ["true"]\n[ready]\nkind = "tcp"\ntarget = "x:1"\n'
        (definitions / f"c{number}.toml").write_text(text)
    home = Home(tmp_path / "home")
    home.create()
    Mesh(home, Options(ports="free"), {}, (definitions,)).save()
    running: list[Runner] = []
    most = 0

    async def is_ready(runner: Runner) -> bool:
        nonlocal most
        running.append(runner)
        most = max(most, len(running))
        await asyncio.sleep(0)
        running.remove(runner)
        return True

    monkeypatch.setattr(Runner, "is_ready", is_ready)
    rows = await Supervisor(home, lambda _: None).status()
    assert [row["ready"] for row in rows] == [True] * COMPONENTS
    assert 1 < most <= PROBES_AT_ONCE
