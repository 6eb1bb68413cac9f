"""A real OpenBao for this folder's tests."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import hvac
import pytest

from coinmesh_access import openbao, table
from coinmesh_access import setup as vault_setup
from coinmesh_access.login import SETUP, Vault, VaultUnavailableError
from coinmesh_access.pki import Lives
from coinmesh_access.setup import Setup
from coinmesh_local.testing import eventually

BIN = Path(sys.executable).parent
#: Long enough for a test to look around in, short enough to wait for renewals.
LEAF_SECONDS = 6


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Server:
    """An OpenBao of our own that can be killed and started again."""

    root: Path
    port: int = field(default_factory=free_port)
    cluster_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def vault(self) -> Vault:
        return Vault(f"https://127.0.0.1:{self.port}", self.secrets / "openbao" / "ca.crt")

    @property
    def audit(self) -> Path:
        return self.root / "logs" / "audit"

    @staticmethod
    def free_port() -> int:
        return free_port()

    def start(self) -> None:
        configuration = openbao.prepare(
            run=self.root / "run",
            data=self.root / "data",
            secrets_dir=self.secrets,
            audit=self.audit,
            listen=f"127.0.0.1:{self.port}",
            cluster=f"127.0.0.1:{self.cluster_port}",
        )
        with open(self.root / "logs" / "openbao.log", "ab") as log:
            self.process = subprocess.Popen(
                [BIN / "bao", "server", f"-config={configuration}"], stdout=log, stderr=log
            )
        eventually(self.is_up, "OpenBao lets the setup log in", timeout=60)

    def is_up(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.root / "logs" / "openbao.log").read_text()
        try:
            self.vault.login(self.secrets, SETUP)
        except VaultUnavailableError:
            return False
        return True

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def setup(self, leaf: int = LEAF_SECONDS) -> list[str]:
        return vault_setup.run(self.vault, self.secrets, table.load(), Setup(Lives(leaf=leaf)))

    def admin(self) -> hvac.Client:
        return self.vault.login(self.secrets, SETUP)

    def service(self, name: str) -> hvac.Client:
        return self.vault.login(self.secrets, name)


@pytest.fixture(scope="session")
def openbao_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server, set up, for all tests."""
    server = Server(tmp_path_factory.mktemp("openbao"))
    try:
        server.start()
        server.setup()
        yield server
    finally:
        server.stop()
        if not os.environ.get("COINMESH_KEEP_TEST"):
            for path in server.secrets.rglob("*"):
                if path.is_file():
                    path.unlink()


@pytest.fixture
def bao(openbao_server: Server) -> Server:
    """The shared server, running."""
    if openbao_server.process is None:
        openbao_server.start()
    return openbao_server


@pytest.fixture(scope="session")
def tls_root(openbao_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of an hour for each service of the table, below `<root>/<service>/current/`."""
    root = tmp_path_factory.mktemp("tls")
    openbao_server.setup(leaf=3600)
    subprocess.run(
        [
            *(BIN / "coinmesh-certs", "agent", "--all", "--once", "--tls", root),
            *("--address", openbao_server.vault.address, "--ca", openbao_server.vault.ca),
            *("--secrets", openbao_server.secrets),
        ],
        check=True,
    )
    return root


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts processes that end with the test; their output goes to `tmp_path/process.log`."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: object, **environment: str) -> subprocess.Popen[bytes]:
        with open(tmp_path / "process.log", "ab") as log:
            words = [str(word) for word in command]
            process = subprocess.Popen(
                words, stdout=log, stderr=log, env={**os.environ, **environment}
            )
        started.append(process)
        return process

    yield start
    for running in started:
        running.kill()
        running.wait()
