"""Client side of the supervisor's socket, used by the commands."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from typing import Any

from coinmesh_local import processes
from coinmesh_local.paths import Home

START_TIMEOUT = 30.0


class SupervisorError(Exception):
    """Raised when the supervisor failed to execute a request; `tail` is the component's log."""

    def __init__(self, message: str, tail: str = "") -> None:
        super().__init__(message)
        self.tail = tail


@contextlib.contextmanager
def socket_address(home: Home) -> Generator[str]:
    """Yield a short name for `run/supervisor.sock`: a socket address is limited to 107 bytes."""
    descriptor = os.open(home.run, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/supervisor.sock"
    finally:
        os.close(descriptor)


def connect(home: Home) -> socket.socket | None:
    """Return a connection to the home's supervisor, None when there is none."""
    if not home.run.is_dir():
        return None
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with socket_address(home) as address:
            client.connect(address)
    except (FileNotFoundError, ConnectionRefusedError):
        client.close()
        return None
    return client


def connect_or_start(home: Home) -> socket.socket:
    """Return a connection to the home's supervisor, starting it detached when there is none."""
    home.create()
    deadline = time.monotonic() + START_TIMEOUT
    process: subprocess.Popen[bytes] | None = None
    while True:
        client = connect(home)
        if client is not None:
            return client
        status = process.poll() if process else 0
        if status:
            text = home.log("supervisor").read_text(errors="replace")[-4000:]
            raise SupervisorError(f"the supervisor ended with status {status}", text)
        if process is None or status == 0:
            with open(home.log("supervisor"), "ab") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "coinmesh_local.daemon", str(home.root)],
                    cwd=home.root,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    # The caller may be a component; the supervisor must not count as one of its
                    # processes.
                    env={k: v for k, v in os.environ.items() if k != processes.MARK},
                    start_new_session=True,
                )
        if time.monotonic() > deadline:
            raise SupervisorError(f"the supervisor did not start: see {home.log('supervisor')}")
        time.sleep(0.05)


class Leaving(Exception):
    """Raised when the supervisor exited before it accepted the request; a new one will."""


class Conversation:
    """One request and the events sent in response.

    Raises:
        Leaving: The supervisor exited without accepting the request.
    """

    def __init__(self, client: socket.socket, request: dict[str, Any]) -> None:
        self._client = client
        self._lines = client.makefile("r", encoding="utf-8")
        try:
            client.sendall(json.dumps(request).encode() + b"\n")
            taken = self._lines.readline()
        except ConnectionError:
            taken = ""
        if not taken:
            self.close()
            raise Leaving

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield state changes while the supervisor works, then the final response.

        Raises:
            SupervisorError: The final response reports a failure.
        """
        for line in self._lines:
            message: dict[str, Any] = json.loads(line)
            if message["event"] == "end" and not message["ok"]:
                raise SupervisorError(message["error"], message.get("tail", ""))
            yield message
            if message["event"] == "end":
                return
        raise SupervisorError("the supervisor ended while it was working")

    def answer(self) -> dict[str, Any]:
        """Return the final response."""
        for message in self.events():
            if message["event"] == "end":
                return message
        raise AssertionError("unreachable: events() ends with the answer or raises")

    def interrupt(self) -> None:
        """Request that the supervisor roll back the operation; `events` still runs to its end."""
        with contextlib.suppress(OSError):
            self._client.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._lines.close()
        self._client.close()
