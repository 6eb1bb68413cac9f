"""Component files of tiny processes, for tests of the supervisor."""

import sys
from collections.abc import Callable
from pathlib import Path

import psutil

from coinmesh_local import operations
from coinmesh_local.testing import TestMesh, eventually

FAKE = [sys.executable, str(Path(__file__).with_name("fake.py"))]
Build = Callable[..., TestMesh]


def service(*flags: str, head: str = "", timeout: float = 20) -> str:
    """A component file: listens on its one port, ready when that answers."""
    words = [*FAKE, "serve", "${port.main}", *flags]
    return f"""
description = "listens"
command = {words}
grace = 0.3
timeout = {timeout}
{head}
[ports]
main = 1
[ready]
kind = "tcp"
target = "${{listen.main}}"
"""


def step(mode: str, target: str = "0", head: str = "") -> str:
    """A component file: a step that succeeds when `target` answers, or one that fails."""
    return f'description = "step"\nkind = "step"\ncommand = {[*FAKE, mode, target]}\n{head}\n'


def supervisor(mesh: TestMesh) -> psutil.Process:
    """The daemon that serves this home."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "coinmesh_local.daemon" in words and words[-1] == str(mesh.home.root):
            return process
    raise AssertionError("no supervisor runs")


def kill_supervisor(mesh: TestMesh) -> None:
    """kill -9 of the daemon alone."""
    process = supervisor(mesh)
    process.kill()
    eventually(
        lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE,
        "the supervisor dies",
    )


def up(mesh: TestMesh) -> None:
    """`coinmesh up` of all components, as a command does it: nothing is held."""
    operations.start(mesh.mesh, []).answer()


def prepared(*words: str, head: str = "") -> str:
    """A component that comes later, after a command that may take long."""
    return service(head=f"later = true\nprepare = [{[*FAKE, *words]}]\n{head}")
