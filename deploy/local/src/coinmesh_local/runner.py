"""Lifecycle of one instance: start, readiness, supervision with restarts, stop."""

import asyncio
import fnmatch
import json
import os
import subprocess
import time
import traceback
from collections.abc import Callable

import psutil

from coinmesh_local import ports, probes, processes
from coinmesh_local.mesh import Instance
from coinmesh_local.paths import Home
from meshkit import logs
from meshkit.files import write_atomically

BACKOFF_FIRST, BACKOFF_CAP = 0.5, 30.0
#: After a crash, an instance that ran at least this long restarts with the first backoff again.
STEADY = 60.0
TAIL_LINES = 40
#: Variables of the supervisor's environment that preparations receive: they may build a program
#: with the user's tools and network configuration.
TOOLS = ("GO*", "*_proxy", "*_PROXY", "SSL_CERT_*")


class StartFailed(Exception):
    """Raised when an instance did not become ready; `tail` holds the end of its log."""

    def __init__(self, instance: str, reason: str, tail: str) -> None:
        super().__init__(f"{instance}: {reason}")
        self.instance, self.reason, self.tail = instance, reason, tail


class Runner:
    """Manage one instance. States: stopped, starting, ready, done, crashed, failed."""

    def __init__(self, home: Home, instance: Instance, changed: Callable[["Runner"], None]) -> None:
        self.home, self.instance = home, instance
        self.state, self.detail, self.restarts = "stopped", "", 0
        self.since = 0
        self.pid: int | None = None
        self._preparing = False
        self._changed = changed
        self._child: subprocess.Popen[bytes] | None = None
        self._watch: asyncio.Task[None] | None = None

    def _set(self, state: str, detail: str = "") -> None:
        self.state, self.detail = state, detail
        self._changed(self)

    async def start(self) -> bool:
        """Make the instance ready (a step: completed). Return False when it already was.

        Raises:
            StartFailed: The instance did not become ready.
            PortTaken: One of its ports is in use.
        """
        if await self._adopt():
            return False
        self._set("starting")
        begun = time.monotonic()
        try:
            await self._spawn()
            await self._until_ready(begun)
        except (StartFailed, ports.PortTaken, OSError) as error:
            await self._end()
            self._set("failed", str(error))
            raise
        took = f"{time.monotonic() - begun:.1f} s"
        if self.instance.kind == "step":
            self._set("done", took)
        else:
            self._set("ready", took)
            self._watch = asyncio.create_task(self._supervise())
        return True

    async def stop(self) -> None:
        """Stop the instance and every process that it started."""
        await self._unwatch()
        await self._end()
        if self.state != "stopped":
            self._set("stopped")

    async def is_ready(self) -> bool:
        """Return the result of a new readiness probe."""
        if self.pid is None:
            return False
        one = self.instance
        return await probes.attempt(one.probe, one.log, self.since, one.environment)

    # -- starting -------------------------------------------------------------------------------

    async def _adopt(self) -> bool:
        """Adopt a running process that matches the definition, also one of a killed supervisor."""
        one = self.instance
        found = processes.find(self.home.root).get(one.name)
        if one.kind == "step" or found is None or found.leader is None:
            return False
        if found.digest != one.digest:
            return False
        self.pid = found.leader
        deadline = time.monotonic() + one.timeout
        while not await self.is_ready():
            if time.monotonic() > deadline or not psutil.pid_exists(found.leader):
                return False
            await asyncio.sleep(0.2)
        if self._watch is None:
            self._set("ready", "was running")
            self._watch = asyncio.create_task(self._supervise())
        return True

    async def _spawn(self) -> None:
        """Stop processes of an earlier run, write files, run preparations, start the command."""
        one = self.instance
        if asyncio.current_task() is not self._watch:
            await self._unwatch()
        await self._end()
        ports.check(one.name, one.ports)
        one.data.mkdir(parents=True, exist_ok=True)
        one.run.mkdir(parents=True, exist_ok=True)
        for name, text in one.files.items():
            write_atomically(one.run / name, text, 0o600)
        with open(one.log, "ab") as log:  # noqa: ASYNC230 (one line to a local file)
            log.write(logs.line(one.component, "supervisor", f"{one.name} starts"))
            log.flush()
            self.since = log.tell()
            self._preparing = True
            try:
                for command in one.prepare:
                    self._launch(command, log.fileno(), "prepare", _with_tools(one.environment))
                    code = await self._exit_code()
                    if code != 0:
                        raise self._failure(f"{' '.join(command[:4])} … ended with status {code}")
            finally:
                self._preparing = False
            self._launch(one.command, log.fileno(), one.digest, one.environment)

    def _launch(
        self, command: tuple[str, ...], log: int, digest: str, environment: dict[str, str]
    ) -> None:
        one = self.instance
        mark = processes.mark(self.home.root, one.name, digest)
        try:
            self._child = subprocess.Popen(
                command,
                cwd=one.data,
                env=environment | {processes.MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        except OSError as error:
            raise self._failure(f"cannot start {command[0]}: {error.strerror}") from error
        self.pid = self._child.pid

    async def _until_ready(self, begun: float) -> None:
        one = self.instance
        exited = asyncio.create_task(self._exit_code())
        try:
            while time.monotonic() - begun < one.timeout:
                if one.kind == "service" and not exited.done() and await self.is_ready():
                    return
                done, _ = await asyncio.wait({exited}, timeout=0.2)
                if done:
                    if exited.result() == 0 and one.kind == "step":
                        return
                    when = "" if one.kind == "step" else " before it was ready"
                    raise self._failure(f"ended with status {exited.result()}{when}")
        finally:
            exited.cancel()
        raise self._failure(f"not ready after {one.timeout:.0f} s")

    # -- watching -------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        """Restart the process whenever it exits, with capped exponential backoff; never return."""
        pause = BACKOFF_FIRST
        started = time.monotonic()
        while True:
            code = await self._exit_code()
            if time.monotonic() - started > STEADY:
                pause = BACKOFF_FIRST
            while True:
                how = "was lost" if code is None else f"ended with status {code}"
                self._set("crashed", f"{how}; restart in {pause:.1f} s")
                await asyncio.sleep(pause)
                pause = min(pause * 2, BACKOFF_CAP)
                self.restarts += 1
                begun = started = time.monotonic()
                self._set("starting", f"restart {self.restarts}")
                try:
                    await self._spawn()
                    await self._until_ready(begun)
                except Exception as error:  # whatever the cause, the next attempt may succeed
                    traceback.print_exception(error)
                    await self._end()
                    self._set("crashed", str(error))
                    continue
                self._set("ready", f"{time.monotonic() - begun:.1f} s")
                break

    async def _unwatch(self) -> None:
        if self._watch:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
            self._watch = None

    async def _exit_code(self) -> int | None:
        """Wait until the process exits; return None when it was not our child."""
        if self.pid is not None:
            await processes.gone(self.pid)
        if self._child is not None and self._child.pid == self.pid:
            return self._child.wait()
        return None

    async def _end(self) -> None:
        one = self.instance
        await processes.stop(self.home.root, one.name, one.stop_signal, one.grace)
        if self._child is not None:
            self._child.wait()
        self._child, self.pid = None, None

    def _failure(self, reason: str) -> StartFailed:
        return StartFailed(self.instance.name, reason, self.tail())

    def _progress(self) -> str:
        """Return the last log message of a running preparation: its progress."""
        last = self.tail().rpartition("\n")[2]
        try:
            return str(json.loads(last)["message"])
        except (ValueError, KeyError, TypeError):
            return last

    def tail(self) -> str:
        """Return the last lines of the log since this start."""
        with open(self.instance.log, "rb") as log:
            log.seek(max(self.since, log.seek(0, os.SEEK_END) - 32_768))
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-TAIL_LINES:])

    def status(self) -> dict[str, object]:
        """Return the columns of `coinmesh status` except readiness and those from /proc."""
        return {
            "name": self.instance.name,
            "component": self.instance.component,
            "kind": self.instance.kind,
            "state": self.state,
            "detail": (self._progress() if self._preparing else "") or self.detail,
            "restarts": self.restarts,
            "ports": self.instance.ports,
            "log": str(self.instance.log),
        }


def _with_tools(environment: dict[str, str]) -> dict[str, str]:
    mine = os.environ
    found = {k: v for k, v in mine.items() if any(fnmatch.fnmatchcase(k, each) for each in TOOLS)}
    path = f"{environment['PATH']}:{mine.get('PATH', os.defpath)}"
    return found | environment | {"PATH": path}
