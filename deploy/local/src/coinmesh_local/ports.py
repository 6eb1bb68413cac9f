"""Which port each listener has, and who holds one that is taken."""

import fcntl
import os
import random
import socket
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from coinmesh_local.definition import Definition
from coinmesh_local.paths import Home

HOST = "127.0.0.1"
#: Below Linux's ephemeral range, so that no outgoing connection takes a port between restarts.
FREE_RANGE = range(20_000, 32_000)

Numbers = dict[str, dict[str, list[int]]]


class PortTaken(Exception):
    """Somebody else listens where a component should; the message names who."""


def is_free(port: int) -> bool:
    """Whether a server could bind `port` on the loopback address now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def holder(port: int) -> str:
    """Who listens on `port`: "pid 4711: redis-server *:6379", as far as this user may see it."""
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
        """A number per component, port name and replica; recorded free ones are kept."""
        if not self.free:
            return {
                name: {
                    port: [first + index for index in range(replicas[name])]
                    for port, first in definition.ports.items()
                }
                for name, definition in definitions.items()
            }
        self.home.create()
        with open(self.home.run / "ports.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            recorded: Numbers = self.home.read_json("ports.json", {})
            known = {n for ports in recorded.values() for ns in ports.values() for n in ns}
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
        return {
            name: {port: recorded[name][port][: replicas[name]] for port in definition.ports}
            for name, definition in definitions.items()
        }
