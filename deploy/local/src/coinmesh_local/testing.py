"""A mesh for tests: free ports, a separate directory, only the required components.

def test_it(mesh):
    mesh.require("kafka", "schemas")
    producer = Producer(client_config(mesh.read(KafkaSettings), "test"))
"""

import fcntl
import os
import shutil
import signal
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeVar

import grpc
import httpx

from coinmesh_local import control, local_user, operations, processes
from coinmesh_local.mesh import Mesh, Options
from coinmesh_local.paths import CHECKOUT, DECLARED, Home
from coinmesh_local.steps import dispatch
from meshkit.settings import MeshSettings
from meshkit.tls import CertificateFiles, client_ssl_context, trusting_ssl_context

READY_TIMEOUT = 180.0
S = TypeVar("S", bound=MeshSettings)


def eventually(condition: Callable[[], Any], what: str, timeout: float = READY_TIMEOUT) -> Any:
    """Return the first true value of `condition`; raise AssertionError with `what` on timeout."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout:.0f} s: {what}"
        time.sleep(0.05)


@dataclass
class TestMesh:
    """A mesh that exists until it is closed, at most as long as this process.

    `environment` holds COINMESH_ variables for components that inherit them (e.g. the simulator's);
    change it before the component is required for the first time. With `keeps_running` the mesh
    outlives the process and `close`, and the next run with the same root finds its components
    ready.
    """

    __test__ = False  # not a test class, despite the name's prefix

    root: Path
    options: Options = field(default_factory=lambda: Options(ports="free"))
    environment: dict[str, str] = field(default_factory=dict)
    components: tuple[Path, ...] = DECLARED
    keeps_running: bool = False

    def __post_init__(self) -> None:
        self.home = Home(self.root)
        self._held: control.Conversation | None = None
        self._required: set[str] = set()

    @property
    def mesh(self) -> Mesh:
        """Return the mesh with its current definitions."""
        return Mesh(self.home, self.options, self.environment, self.components)

    def require(self, *names: str) -> None:
        """Start components and steps with all dependencies and wait until they are ready."""
        wanted = [name for name in names if name not in self._required]
        if not wanted:
            return
        self.hold()
        operations.provide(self.mesh, wanted, lambda _: None)
        conversation = operations.start(self.mesh, wanted)
        try:
            conversation.answer()
        except control.SupervisorError as error:
            raise AssertionError(f"{error}\n{error.tail}") from error
        finally:
            conversation.close()
        self._required.update(self.mesh.closure(wanted))

    def hold(self) -> None:
        """Tie the supervisor to this process: when the process dies in any way, the mesh stops.

        With `keeps_running` the mesh is only created.
        """
        if self._held is None:
            self.home.create()
            self.mesh.save()
            if not self.keeps_running:
                self._held = operations.ask(self.home, "hold")
                self._held.answer()

    @property
    def endpoints(self) -> dict[str, str]:
        """Return name → address, as printed by `coinmesh endpoints`."""
        return {name: str(e["url"]) for name, e in self.mesh.endpoints().items()}

    @property
    def settings(self) -> dict[str, str]:
        """Return the COINMESH_ environment of a client of all components with all permissions."""
        return self.settings_of("deploy")

    def settings_of(self, service: str) -> dict[str, str]:
        """Return the same for a service of the access table, with its own credentials."""
        return self.mesh.settings(client=service)

    def read(self, kind: type[S], service: str = "deploy") -> S:
        """Return the service's settings as `kind`."""
        return dispatch.read(kind, self.settings_of(service))

    def tls(self, service: str = "deploy") -> ssl.SSLContext:
        """Return the service's client context: its certificate, and trust in the mesh's CA."""
        found = client_ssl_context(MeshSettings(tls_dir=self.home.tls / service))
        assert found is not None
        return found

    def grpc_credentials(self, service: str = "deploy") -> grpc.ChannelCredentials:
        """Return the same for gRPC."""
        pair = CertificateFiles(self.home.tls / service).read()
        return grpc.ssl_channel_credentials(pair.roots, pair.key, pair.chain)

    def rest(self) -> httpx.Client:
        """Return a client of the public listener, authenticated as the local user."""
        return httpx.Client(
            base_url=self.endpoints["rest"],
            verify=trusting_ssl_context(self.home.ca),
            auth=local_user.Bearer(self.mesh),
            timeout=30,
        )

    def user_credentials(self) -> grpc.ChannelCredentials:
        """Return the same for gRPC; valid until the token expires after 15 minutes."""
        call = grpc.access_token_call_credentials(local_user.token(self.mesh))
        roots = grpc.ssl_channel_credentials(self.home.ca.read_bytes())
        return grpc.composite_channel_credentials(roots, call)

    def component(self, name: str) -> "Component":
        """Return a handle on an instance (`kafka`, or `kafka-1` where there are several)."""
        return Component(self, name)

    def status(self) -> dict[str, dict[str, Any]]:
        """Return the rows of `coinmesh status --json` by instance."""
        return {row["name"]: row for row in operations.status(self.mesh)}

    def close(self) -> None:
        """Stop everything and delete the directory; components required later start anew."""
        self._required.clear()
        if self.keeps_running:
            return
        operations.down(self.home)
        if self._held is not None:
            self._held.close()
            self._held = None
        if not os.environ.get("COINMESH_KEEP_TEST"):
            shutil.rmtree(self.root, ignore_errors=True)

    def __enter__(self) -> "TestMesh":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Component:
    """One running instance, for tests of failures."""

    owner: TestMesh
    name: str

    def pids(self) -> list[int]:
        """Return the ids of all its processes, the directly started one first."""
        found = processes.find(self.owner.home.root).get(self.name)
        if found is None:
            return []
        return sorted(found.members, key=lambda pid: pid != found.leader)

    def kill(self) -> None:
        """Kill the process with SIGKILL; the supervisor restarts it (see `wait_ready`)."""
        before = self.pids()[0]
        os.kill(before, signal.SIGKILL)
        eventually(lambda: before not in self.pids(), f"{self.name} dies")

    def signal(self, number: int) -> None:
        """Send a signal to the directly started process."""
        os.kill(self.pids()[0], number)

    def wait_ready(self) -> None:
        """Wait until it serves (again)."""
        eventually(
            lambda: self.owner.status()[self.name]["ready"],
            f"{self.name} is ready; its log:\n{self.log()[-4000:]}",
        )

    def stop(self) -> None:
        """Stop it in order and leave it stopped; `start` starts it again."""
        operations.ask(self.owner.home, "stop", [self.name]).answer()

    def start(self) -> None:
        """Start it again after `stop`."""
        operations.start(self.owner.mesh, [self._component]).answer()

    def restart(self) -> None:
        """Stop and start it in order; return when it is ready."""
        operations.ask(self.owner.home, "restart", [self.name]).answer()

    def log(self) -> str:
        """Return its log."""
        return self.owner.home.log(self.name).read_text(errors="replace")

    @property
    def _component(self) -> str:
        mesh = self.owner.mesh
        return next(c for c in mesh.definitions if self.name in mesh.instance_names(c))


class Workspace:
    """Directory `.coinmesh/test/<pid>` for this run's meshes; removes those of killed runs."""

    def __init__(self) -> None:
        parent = CHECKOUT / ".coinmesh" / "test"
        parent.mkdir(parents=True, exist_ok=True)
        with open(parent / "lock", "w") as turn:  # protects other runs' new directories
            fcntl.flock(turn, fcntl.LOCK_EX)
            for left in parent.iterdir():
                lock = self._lock(left)
                if lock is not None:
                    for home in left.glob("*/run"):
                        operations.down(Home(home.parent))
                    shutil.rmtree(left, ignore_errors=True)
                    lock.close()
            self.root = parent / str(os.getpid())
            self.root.mkdir()
            lock = self._lock(self.root)
        assert lock is not None
        self._held = lock
        self._meshes: list[TestMesh] = []

    def mesh(
        self,
        name: str,
        options: Options | None = None,
        environment: dict[str, str] | None = None,
    ) -> TestMesh:
        """Return a mesh of this run with a directory of that name."""
        made = TestMesh(self.root / name, options or Options(ports="free"), environment or {})
        self._meshes.append(made)
        return made

    def close_meshes(self) -> None:
        """Stop the open meshes; components required later start anew."""
        for each in self._meshes:
            each.close()

    @staticmethod
    def _lock(directory: Path) -> IO[str] | None:
        """Return the directory's lock, None when a live run holds it."""
        if not directory.is_dir():
            return None
        file = open(directory / "lock", "w")  # noqa: SIM115 (held until the run ends)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        return file

    def close(self) -> None:
        """Remove the directory unless COINMESH_KEEP_TEST is set."""
        if not os.environ.get("COINMESH_KEEP_TEST"):
            shutil.rmtree(self.root, ignore_errors=True)
        self._held.close()
