"""The command of `coinmesh-certs`: the agent that renews certificates."""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from coinmesh_access import listener_certificate
from coinmesh_access.agent import Agent, HookError, Place, read_hooks
from coinmesh_access.login import VaultUnavailableError
from coinmesh_access.settings import (
    DEFAULT_ADDRESS,
    DEFAULT_CA,
    DEFAULT_SECRETS,
    DEFAULT_TABLE,
    AddressOption,
    CaOption,
    SecretsOption,
    TableOption,
    vault,
)
from coinmesh_access.table import AccessError, load
from meshkit import logs
from meshkit import metrics as mesh_metrics
from meshkit.metrics import Metrics
from meshkit.settings import Address, MeshSettings, SettingsError, read
from meshkit.tls import CertificateFiles

#: The agent's own identity and log name; its metrics are served with that certificate.
OWN = "certs"


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(agent)


def agent(
    *,
    service: Annotated[list[str] | None, typer.Option(help="a service of the table")] = None,
    every: Annotated[bool, typer.Option("--all", help="all services of the table")] = False,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help="where one service's certificate goes; else below --tls"),
    ] = None,
    tls: Annotated[
        Path, typer.Option(envvar="COINMESH_TLS_ROOT", help="a directory for each service")
    ] = Path(".coinmesh/tls"),
    once: Annotated[bool, typer.Option(help="renew what is due, then end")] = False,
    hooks: Annotated[
        Path | None, typer.Option(envvar="COINMESH_CERT_HOOKS", help="commands after a renewal")
    ] = None,
    listener: Annotated[
        Path | None,
        typer.Option(help="a local OpenBao's directory of secrets: renew its listener's, too"),
    ] = None,
    metrics_listen: Annotated[
        str | None, typer.Option(envvar="COINMESH_METRICS_LISTEN", help="host:port for Prometheus")
    ] = None,
    address: AddressOption = DEFAULT_ADDRESS,
    ca: CaOption = DEFAULT_CA,
    secrets: SecretsOption = DEFAULT_SECRETS,
    table: TableOption = DEFAULT_TABLE,
) -> None:
    """Issue certificates and renew them at two thirds of their lifetime.

    Without --once it runs until SIGTERM; while Vault is unreachable the old certificates stay.
    SIGHUP renews all of them now, e.g. after a key may have been exposed.
    """
    logs.configure(OWN)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    try:
        known = load(table)
        names = list(known.services) if every else list(service or ())
        for name in names:
            known.service(name)
        chosen = read_hooks(hooks, known) if hooks else {}
    except AccessError as error:
        raise typer.BadParameter(str(error)) from error
    if not names or (directory is not None and len(names) != 1):
        raise typer.BadParameter("name one --service for --dir, several services, or --all")
    places = [Place(name, directory or tls / name) for name in names]
    if listener is not None:
        places.append(Place(listener_certificate.NAME, listener, issue=listener_certificate.renew))
    metrics = Metrics()
    keeper = Agent(vault(address, ca), secrets, known, chosen, metrics)
    try:
        if once:
            asyncio.run(keeper.once(places))
        else:
            own = CertificateFiles(tls / OWN) if OWN in names else None
            server = serve_metrics(metrics_listen, metrics, own) if metrics_listen else None
            asyncio.run(_until_stopped(keeper, places))
            if server is not None:
                server.close()
    except (VaultUnavailableError, HookError, SettingsError) as error:
        logging.getLogger(__name__).error("%s", error)
        sys.exit(1)


def serve_metrics(
    address: str, metrics: Metrics, files: CertificateFiles | None
) -> mesh_metrics.MetricsServer:
    """Serve the agent's metrics; SettingsError when they would be plaintext beyond loopback."""
    return mesh_metrics.start(Address.parse(address), metrics, read(MeshSettings), files)


async def _until_stopped(keeper: Agent, places: Sequence[Place]) -> None:
    task = asyncio.create_task(keeper.run(places))
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, keeper.renew_now)
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task
