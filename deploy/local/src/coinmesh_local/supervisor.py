"""Start components in dependency order, keep them running and stop them.

The supervisor is one process per home, detached from the command that started it. Commands reach it
through a socket (`control`). It survives its own kill -9, as no required state is only in its
memory: the definitions and `mesh.json` state the components that should run, /proc shows those that
do.
"""

import asyncio
import shutil
import traceback
from collections.abc import Callable, Iterable

from coinmesh_local import processes
from coinmesh_local.mesh import Mesh
from coinmesh_local.paths import Home
from coinmesh_local.ports import PortTaken
from coinmesh_local.runner import Runner, StartFailed

Notify = Callable[[dict[str, object]], None]
PROBES_AT_ONCE = 4


class Supervisor:
    """The runners of one home."""

    def __init__(self, home: Home, notify: Notify) -> None:
        self.home = home
        self.mesh = Mesh.recorded(home)
        self.runners: dict[str, Runner] = {}
        self._notify = notify
        self._later: dict[str, asyncio.Task[None]] = {}

    async def up(self, targets: Iterable[str]) -> list[str]:
        """Start `targets` and their dependencies and return the newly started instances.

        Without targets, all components start except the later ones. When one fails or the call is
        cancelled, the instances started by the call are stopped again.
        """
        self.mesh = Mesh.recorded(self.home)
        order = self.mesh.at_once(targets)
        await self._retire()
        finished = {name: asyncio.Event() for name in order}
        started: list[str] = []

        async def bring(component: str) -> None:
            for dependency in self.mesh.definitions[component].depends_on:
                await finished[dependency].wait()
            async with asyncio.TaskGroup() as replicas:
                for runner in self._runners_of(component):
                    replicas.create_task(start(runner))
            finished[component].set()

        async def start(runner: Runner) -> None:
            if begun := self._later.get(runner.instance.name):
                # A second start would stop the preparation of the first.
                await asyncio.shield(begun)
            started.append(runner.instance.name)
            if not await runner.start():
                started.remove(runner.instance.name)

        try:
            async with asyncio.TaskGroup() as group:
                for component in order:
                    group.create_task(bring(component))
        except BaseException as error:
            await asyncio.shield(self.stop(started))
            raise _first(error) from None
        return started

    async def start_later(self) -> None:
        """Start later components in the background and return; failures show in their state.

        Their dependencies are up already.
        """
        for component in self.mesh.later():
            for runner in self._runners_of(component):
                name = runner.instance.name
                if name not in self._later:
                    self._later[name] = asyncio.create_task(self._begin(runner))

    async def _begin(self, runner: Runner) -> None:
        try:
            await runner.start()
        except (StartFailed, PortTaken, OSError) as error:
            traceback.print_exception(error)
        finally:
            del self._later[runner.instance.name]

    async def down(self) -> None:
        """Stop everything of this home, dependents first, including instances no longer defined."""
        running = set(processes.find(self.home.root)) | set(self.runners)
        await self.stop(running)
        shutil.rmtree(self.home.start_passwords, ignore_errors=True)

    async def stop(self, instances: Iterable[str]) -> None:
        """Stop `instances`; each waits until those that depend on it have stopped."""
        names = list(dict.fromkeys(instances))
        component = {n: c for c in self.mesh.definitions for n in self.mesh.instance_names(c)}
        stopped = {name: asyncio.Event() for name in names}

        async def end(name: str) -> None:
            if begun := self._later.get(name):
                begun.cancel()
                await asyncio.wait({begun})
            for other in names:
                found = self.mesh.definitions.get(component.get(other, ""))
                if found and component.get(name) in found.depends_on:
                    await stopped[other].wait()
            try:
                if name in self.runners:
                    await self.runners[name].stop()
                elif name in component:
                    await self._runner(component[name], name).stop()
                else:
                    await processes.stop(self.home.root, name, "SIGTERM", 10)
            finally:
                stopped[name].set()

        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(end(name))

    async def restart(self, names: Iterable[str]) -> None:
        """Stop and start components, or single replicas; leave the others alone."""
        self.mesh = Mesh.recorded(self.home)
        instances = self.mesh.named(names)
        await self.stop(instances)
        for component in self.mesh.closure():
            replicas = [n for n in self.mesh.instance_names(component) if n in instances]
            async with asyncio.TaskGroup() as group:
                for name in replicas:
                    group.create_task(self._runner(component, name).start())

    async def status(self) -> list[dict[str, object]]:
        """Return one row per instance of the mesh; `ready` is probed now."""
        found = processes.find(self.home.root)
        rows: list[dict[str, object]] = []
        for component in self.mesh.closure():
            for name in self.mesh.instance_names(component):
                runner = self.runners.get(name) or self._runner(component, name)
                row = runner.status() | processes.columns(found.get(name))
                if row["state"] == "stopped" and row["pid"] is not None:
                    row["state"] = processes.UNSUPERVISED
                rows.append(row)
        # Setting up a probe's TLS takes CPU time: all at once would exceed each other's time limit.
        turns = asyncio.Semaphore(PROBES_AT_ONCE)

        async def is_ready(runner: Runner) -> bool:
            async with turns:
                return await runner.is_ready()

        runners = [self.runners[str(row["name"])] for row in rows]
        for row, ready in zip(rows, await asyncio.gather(*map(is_ready, runners)), strict=True):
            row["ready"] = ready or row["state"] == "done"
        return rows

    @property
    def idle(self) -> bool:
        """Return whether nothing of this home runs or is about to start."""
        ended = all(r.state in ("stopped", "failed", "done") for r in self.runners.values())
        return ended and not processes.find(self.home.root)

    async def _retire(self) -> None:
        """Stop instances that the definitions no longer name (a second gateway, a simulator)."""
        known = {name for c in self.mesh.definitions for name in self.mesh.instance_names(c)}
        running = set(processes.find(self.home.root)) | set(self.runners)
        await self.stop(running - known)
        for name in set(self.runners) - known:
            del self.runners[name]

    def _runners_of(self, component: str) -> list[Runner]:
        return [self._runner(component, name) for name in self.mesh.instance_names(component)]

    def _runner(self, component: str, name: str) -> Runner:
        instance = next(i for i in self.mesh.instances(component) if i.name == name)
        runner = self.runners.get(name)
        if runner is None:
            runner = self.runners[name] = Runner(self.home, instance, self._changed)
        runner.instance = instance
        return runner

    def _changed(self, runner: Runner) -> None:
        self._notify(
            {
                "event": "state",
                "name": runner.instance.name,
                "kind": runner.instance.kind,
                "state": runner.state,
                "detail": runner.detail,
            }
        )


def _first(error: BaseException) -> BaseException:
    """Return the first real cause inside nested exception groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
