"""A separate OpenBao for a test, without the rest of the mesh."""

import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import hvac

from coinmesh_access import openbao, table
from coinmesh_access import setup as vault_setup
from coinmesh_access.login import SETUP, USERS, Vault, VaultUnavailableError
from coinmesh_access.pki import Lives
from coinmesh_access.setup import Setup

START_SECONDS = 60
BIN = Path(sys.executable).parent
#: Long enough for checks in a test, short enough to wait for renewals.
LEAF_SECONDS = 6


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Server:
    """An OpenBao that can be killed and restarted."""

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
        deadline = time.monotonic() + START_SECONDS
        while not self.is_up():
            assert time.monotonic() < deadline, "OpenBao doesn't let the setup log in"
            time.sleep(0.05)

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

    def users(self) -> hvac.Client:
        return self.vault.login(self.secrets, USERS)

    def service(self, name: str) -> hvac.Client:
        return self.vault.login(self.secrets, name)
