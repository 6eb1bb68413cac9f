"""The port of each listener, and the process that holds a port that is in use."""

import fcntl
import hashlib
import os
import random
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from coinmesh_local.definition import Definition, DefinitionError
from coinmesh_local.paths import Home, cache_directory

HOST = "127.0.0.1"
#: Below Linux's ephemeral range, so that no outgoing connection takes a port between restarts.
FREE_RANGE = range(20_000, 32_000)

Numbers = dict[str, dict[str, list[int]]]


class PortTaken(Exception):
    """Raised when another process listens on a component's port; the message names the process."""


def is_free(port: int) -> bool:
    """Return whether a server could bind `port` on the loopback address now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def holder(port: int) -> str:
    """Return the listener on `port` as visible to this user: "pid 4711: redis-server *:6379"."""
    for connection in psutil.net_connections(kind="tcp"):
        local = connection.laddr
        if not local or local.port != port or connection.status != psutil.CONN_LISTEN:
            continue
        if connection.pid is None:
            return "a process of another user"
        try:
            command = " ".join(psutil.Process(connection.pid).cmdline())
        except psutil.Error:
            command = "?"
        if len(command) > 160:
            command = command[:157] + "…"
        return f"pid {connection.pid}: {command}"
    return "a process that cannot be seen (or the port is still closing)"


def check(instance: str, ports: Mapping[str, int]) -> None:
    """Raise PortTaken for the first of an instance's ports that is in use."""
    for name, port in ports.items():
        if not is_free(port):
            raise PortTaken(
                f"{instance}: port {port} ({name}) is taken by {holder(port)}. "
                "Stop it, or run this mesh with COINMESH_PORTS=free"
            )


@dataclass(frozen=True)
class PortTable:
    """The port numbers of one mesh: fixed ones, or free ones recorded in its state directory."""

    home: Home
    free: bool

    def assign(self, definitions: Mapping[str, Definition], replicas: Mapping[str, int]) -> Numbers:
        """Return a number per component, port name and replica; recorded free ones are reused.

        Raises:
            DefinitionError: Two components have the same fixed number.
        """
        if not self.free:
            return _fixed(definitions, replicas)
        self.home.create()
        # One lock and one list for all meshes of this user: an assigned port stays reserved for its
        # mesh before the components start.
        shared = cache_directory() / "ports"
        shared.mkdir(parents=True, exist_ok=True)
        with open(shared / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            recorded: Numbers = self.home.read_json("ports.json", {})
            known = _given(recorded) | _given_to_others(shared, self.home.root)
            pick = random.Random(os.urandom(8))
            for name, definition in definitions.items():
                for port in definition.ports:
                    numbers = recorded.setdefault(name, {}).setdefault(port, [])
                    while len(numbers) < replicas[name]:
                        number = pick.choice(FREE_RANGE)
                        if number not in known and is_free(number):
                            known.add(number)
                            numbers.append(number)
            self.home.write_json("ports.json", recorded)
            link = shared / hashlib.sha256(str(self.home.root).encode()).hexdigest()[:16]
            if not link.is_symlink():
                link.symlink_to(self.home.root)
        return {
            name: {port: recorded[name][port][: replicas[name]] for port in definition.ports}
            for name, definition in definitions.items()
        }


def _fixed(definitions: Mapping[str, Definition], replicas: Mapping[str, int]) -> Numbers:
    """Return the port numbers of the definitions; DefinitionError names duplicates."""
    owners: dict[int, str] = {}
    found: Numbers = {}
    for name, definition in definitions.items():
        found[name] = {}
        for port, first in definition.ports.items():
            numbers = list(range(first, first + replicas[name]))
            for number in numbers:
                if (owner := owners.setdefault(number, f"{name} ({port})")) != f"{name} ({port})":
                    raise DefinitionError(f"{owner} and {name} ({port}) both have port {number}")
            found[name][port] = numbers
    return found


def _given(recorded: Numbers) -> set[int]:
    return {n for ports in recorded.values() for numbers in ports.values() for n in numbers}


def _given_to_others(shared: Path, own: Path) -> set[int]:
    """Return the ports of other meshes that still exist; remove links to those that are gone."""
    given: set[int] = set()
    for link in shared.iterdir():
        if not link.is_symlink():
            continue
        root = link.readlink()
        if not root.is_dir():
            link.unlink()
        elif root != own:
            given |= _given(Home(root).read_json("ports.json", {}))
    return given
