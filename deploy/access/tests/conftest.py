"""A real OpenBao for the tests of this folder."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coinmesh_access.testing import BIN, Server

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def openbao_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield one configured server for all tests."""
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
    """Return the shared server, running."""
    if openbao_server.process is None:
        openbao_server.start()
    return openbao_server


@pytest.fixture(scope="session")
def tls_root(openbao_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the root of `<root>/<service>/current/` with certificates valid for one hour."""
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
    """Yield a function that starts processes; they are killed after the test.

    Their output goes to `tmp_path/process.log`.
    """
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
