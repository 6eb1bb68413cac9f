"""The supervisor as a detached process: one per home, controlled through its socket.

A connection carries one request, a JSON object, and its response, JSON lines. The first line is
`{"event": "taken"}` (a connection closed without it came too late for this supervisor), the last
one has `"event": "end"`. When the connection of an `up` request closes early, the components that
it started are stopped. When the connection of a `hold` request closes, the whole mesh is stopped,
so that a killed test run leaves nothing behind.
"""

import asyncio
import contextlib
import fcntl
import json
import signal
import sys
import traceback
from pathlib import Path

from coinmesh_access.proxies import bypass_for_loopback
from coinmesh_local import log_files, processes
from coinmesh_local.control import socket_address
from coinmesh_local.paths import Home
from coinmesh_local.runner import StartFailed
from coinmesh_local.supervisor import Supervisor

Message = dict[str, object]

#: Seconds after which a daemon exits whose starting command died before it sent a request.
LONELY = 30.0
#: The component that writes Vault's audit logs.
VAULT = "openbao"
#: Interval in seconds between log size checks.
ROTATION = 20.0


class Daemon:
    """Serve requests: those that change something one at a time, `status` concurrently."""

    def __init__(self, home: Home) -> None:
        self.supervisor = Supervisor(home, self._broadcast)
        self.finished = asyncio.Event()
        self._connections = 0
        self.work: asyncio.Task[None] | None = None
        self._listeners: set[asyncio.StreamWriter] = set()
        self._changes = asyncio.Lock()

    def _broadcast(self, message: Message) -> None:
        for writer in self._listeners:
            self._send(writer, message)

    @staticmethod
    def _send(writer: asyncio.StreamWriter, message: Message) -> None:
        if not writer.is_closing():
            writer.write(json.dumps(message).encode() + b"\n")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self._connections += 1
        try:
            line = await reader.readline()
            if line and not self.finished.is_set():
                self._send(writer, {"event": "taken"})
                await self._answer(json.loads(line), reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            self._connections -= 1
            self.finish_when_idle()

    async def rotate_logs(self) -> None:
        """Rotate every file in the log directory, whatever process writes it, to bound disk use."""
        while True:
            await asyncio.sleep(ROTATION)
            for log in self.supervisor.home.logs.glob("*.log"):
                audit = log.name.startswith(log_files.AUDIT)
                rotate = log_files.set_aside if audit else log_files.rotate
                try:
                    emptied = await asyncio.to_thread(rotate, log, log_files.LIMIT)
                except OSError as error:  # the next attempt may succeed
                    traceback.print_exception(error)
                    continue
                for runner in self.supervisor.runners.values():
                    if emptied and runner.instance.log == log:
                        runner.since = 0
            self._reopen_audit_logs()

    def _reopen_audit_logs(self) -> None:
        """Signal Vault to reopen its audit logs when one has been set aside."""
        vault = self.supervisor.runners.get(VAULT)
        devices = [self.supervisor.home.log(f"{log_files.AUDIT}{index}") for index in (1, 2)]
        # SIGHUP would terminate a Vault that is still starting.
        if vault and vault.state == "ready" and vault.pid and not all(d.exists() for d in devices):
            processes.send(vault.pid, signal.SIGHUP)

    def finish_when_idle(self) -> None:
        """Shut down when nothing runs and no client is connected."""
        if self.supervisor.idle and not self._connections:
            self.finished.set()

    async def _answer(
        self, request: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        operation = request["op"]
        if operation == "status":
            rows = await self.supervisor.status()
            self._send(writer, {"event": "end", "ok": True, "rows": rows})
            return
        if operation == "hold":
            self._send(writer, {"event": "end", "ok": True})
            await reader.read()
            async with self._changes:
                await self.supervisor.down()
            return
        async with self._changes:
            self._listeners.add(writer)
            self.work = work = asyncio.create_task(self._change(request))
            broken = asyncio.create_task(reader.read(1))
            await asyncio.wait({work, broken}, return_when=asyncio.FIRST_COMPLETED)
            if broken.done() and operation == "up":
                work.cancel()
            result = (await asyncio.gather(work, return_exceptions=True))[0]
            self._listeners.discard(writer)
            self._send(writer, _outcome(result))
        broken.cancel()

    async def _change(self, request: Message) -> None:
        names = [str(name) for name in request.get("names") or []]  # type: ignore[union-attr]
        match request["op"]:
            case "up":
                await self.supervisor.up(names)
            case "later":
                await self.supervisor.start_later()
            case "down":
                await self.supervisor.down()
            case "stop":
                await self.supervisor.stop(self.supervisor.mesh.named(names))
            case "restart":
                await self.supervisor.restart(names)
            case other:
                raise ValueError(f"unknown request {other!r}")


def _outcome(result: BaseException | None) -> Message:
    """Return the last line of a response."""
    if result is None:
        return {"event": "end", "ok": True}
    while isinstance(result, BaseExceptionGroup):
        result = result.exceptions[0]
    if isinstance(result, asyncio.CancelledError):
        return {"event": "end", "ok": False, "error": "interrupted: what was started is stopped"}
    message: Message = {"event": "end", "ok": False, "error": str(result)}
    if isinstance(result, StartFailed):
        message["tail"] = result.tail
    elif not isinstance(result, OSError):
        traceback.print_exception(result)
    return message


async def run(home: Home) -> None:
    """Serve until everything is stopped or a termination signal arrives."""
    daemon = Daemon(home)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.finished.set)
    with socket_address(home) as address:
        server = await asyncio.start_unix_server(daemon.serve, address)
        loop.call_later(LONELY, daemon.finish_when_idle)
        rotation = asyncio.create_task(daemon.rotate_logs())
        await daemon.finished.wait()
        rotation.cancel()
        server.close()
        if daemon.work:
            daemon.work.cancel()
            await asyncio.gather(daemon.work, return_exceptions=True)
        await daemon.supervisor.down()


def main() -> None:
    """Run `python -m coinmesh_local.daemon HOME`; return when another daemon serves this home."""
    bypass_for_loopback()
    home = Home(Path(sys.argv[1]))
    home.create()
    with open(home.run / "supervisor.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        asyncio.run(run(home))


if __name__ == "__main__":
    main()
