"""Operations on a mesh for commands and tests: start, stop, inspect, and delete its data."""

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterable
from typing import Any

from coinmesh_local import control, processes, provision
from coinmesh_local.definition import closure
from coinmesh_local.mesh import Mesh
from coinmesh_local.paths import MARKER, Home
from meshkit.files import write_atomically

Event = dict[str, Any]


def provide(mesh: Mesh, targets: Iterable[str], progress: Callable[[str], None]) -> None:
    """Provision the needs of `targets` (of all that `up` waits for if none) and dependencies."""
    names = mesh.at_once(targets)
    wanted = [what for name in names for what in mesh.definitions[name].provision]
    provision.ensure(wanted, progress)


def start(mesh: Mesh, targets: Iterable[str]) -> control.Conversation:
    """Record the mesh and request that its supervisor start `targets`; the result yields events."""
    names = list(targets)
    closure(mesh.definitions, names)
    mesh.save()
    publish_endpoints(mesh)
    return ask(mesh.home, "up", names)


def start_later(mesh: Mesh) -> list[str]:
    """Request that the supervisor start the later components in the background.

    Returns:
        The instances that aren't ready yet.
    """
    ask(mesh.home, "later").answer()
    return [
        row["name"] for row in status(mesh) if row["component"] in mesh.later() and not row["ready"]
    ]


def pending_line(mesh: Mesh, pending: list[str]) -> str:
    """Return a line with the components still being built and the functions missing until then."""
    components = [name for name in mesh.later() if set(mesh.instance_names(name)) & set(pending)]
    lacks = [text for name in components if (text := mesh.definitions[name].without)]
    until = f"until then {' and '.join(lacks)}; all else works" if lacks else "all else works"
    return (
        f"still being built: {', '.join(pending)}; {until} (`coinmesh status` shows how far it is)"
    )


def publish_endpoints(mesh: Mesh) -> None:
    """Write `endpoints.json` into the home for people and other programs."""
    text = json.dumps(mesh.endpoints(), indent=2) + "\n"
    write_atomically(mesh.home.root / "endpoints.json", text)


def ask(home: Home, operation: str, names: Iterable[str] = ()) -> control.Conversation:
    """Send a request to the supervisor, started if necessary (it adopts running processes)."""
    request = {"op": operation, "names": list(names)}
    while True:
        try:
            return control.Conversation(control.connect_or_start(home), request)
        except control.Leaving:
            time.sleep(0.05)


def down(home: Home) -> bool:
    """Stop everything of this home and keep its data; return False when nothing ran."""
    running = processes.find(home.root)
    if not running and control.connect(home) is None:
        return False
    ask(home, "down").answer()
    return bool(running)


def reset(home: Home) -> None:
    """Stop everything and delete data, logs, recorded state and generated secrets.

    Raises:
        FileNotFoundError: The directory is not a mesh's: nothing is deleted.
    """
    state = (home.data, home.logs, home.run, home.secrets, home.tls)
    if not any(directory.exists() for directory in state):
        return
    if not home.is_marked:
        raise FileNotFoundError(
            f"{home.root} is no state directory of Coinmesh (it has no file {MARKER}), so nothing "
            "was deleted: correct COINMESH_HOME, or delete the directory by hand"
        )
    down(home)
    for directory in state:
        shutil.rmtree(directory, ignore_errors=True)
    for file in (home.root / "endpoints.json", home.ca, home.root / MARKER):
        file.unlink(missing_ok=True)


def status(mesh: Mesh) -> list[dict[str, Any]]:
    """Return a row per instance; rows with `supervised` False are based on /proc."""
    client = control.connect(mesh.home)
    if client is not None:
        with contextlib.suppress(control.Leaving):
            rows = control.Conversation(client, {"op": "status"}).answer()["rows"]
            return [row | {"supervised": True} for row in rows]
    found = processes.find(mesh.home.root)
    rows = []
    for component in mesh.closure():
        for instance in mesh.instances(component):
            one = found.get(instance.name)
            rows.append(
                {
                    "name": instance.name,
                    "component": component,
                    "kind": instance.kind,
                    "state": processes.UNSUPERVISED if one else "stopped",
                    "detail": "",
                    **processes.columns(one),
                    "restarts": 0,
                    "ports": instance.ports,
                    "log": str(instance.log),
                    "ready": False,
                    "supervised": False,
                }
            )
    return rows
