"""Commands that run the mesh."""

import json
import os
import shutil
import sys
from contextlib import suppress
from typing import Annotated, Any

import typer

from coinmesh_cli import log_search
from coinmesh_cli.first_bar import wait_for_first_bar
from coinmesh_cli.progress import Progress
from coinmesh_local import operations, static_credentials
from coinmesh_local.control import SupervisorError
from coinmesh_local.definition import DefinitionError, Profile
from coinmesh_local.mesh import Mesh, Options, caller_environment
from coinmesh_local.paths import Home
from coinmesh_local.steps import dispatch

Until = Annotated[
    list[str] | None,
    typer.Option("--until", help="Start only this component and what it needs (repeatable)."),
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (up, down, reset, restart, rotate, logs, endpoints, provision, deploy):
        app.command()(command)


def wanted_mesh(
    ha: bool | None = None, gateways: int | None = None, profile: Profile | None = None
) -> Mesh:
    """Return the requested mesh: options of this call override those recorded in the home."""
    home = Home.from_environment()
    recorded = Mesh.recorded(home)
    options = Options(
        ha=recorded.options.ha if ha is None else ha,
        gateways=recorded.options.gateways if gateways is None else gateways,
        profile=profile or recorded.options.profile,
        source=os.environ.get("COINMESH_SOURCE") or "sim",
        ports=os.environ.get("COINMESH_PORTS") or recorded.options.ports,
    )
    return Mesh(home, options, caller_environment(), recorded.components)


def up(
    until: Until = None,
    ha: Annotated[bool | None, typer.Option("--ha/--no-ha", help="Three brokers.")] = None,
    gateways: Annotated[int | None, typer.Option(help="Replicas of the query gateway.")] = None,
    profile: Annotated[
        Profile | None, typer.Option(help="full: with Prometheus, Alertmanager and the log store.")
    ] = None,
) -> None:
    """Start the mesh; print its URLs once the first bar is served."""
    mesh = wanted_mesh(ha, gateways, profile)
    targets = until or []
    mesh.closure(targets)
    with Progress() as progress:
        mesh.home.create()
        operations.provide(mesh, targets, progress.note)
        mesh = wanted_mesh(ha, gateways, profile)  # now with the JDKs that provisioning found
        conversation = operations.start(mesh, targets)
        try:
            for event in conversation.events():
                progress.event(event)
        except KeyboardInterrupt:
            progress.note("interrupted: stopping what was started (Ctrl-C again leaves at once)")
            conversation.interrupt()
            with suppress(SupervisorError):
                for event in conversation.events():
                    progress.event(event)
            raise
        if not targets:
            wait_for_first_bar(mesh, progress)
            if pending := operations.start_later(mesh):
                progress.note(operations.pending_line(mesh, pending))
    _print_endpoints(mesh, targets)


def down() -> None:
    """Stop the mesh; its data stays."""
    home = Home.from_environment()
    print("stopped" if operations.down(home) else "nothing was running")


def reset(yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Stop the mesh and delete its data, logs and secrets."""
    home = Home.from_environment()
    if not yes:
        typer.confirm(f"drop everything in {home.root}?", abort=True)
    operations.reset(home)
    print(f"dropped the data in {home.root}")


def restart(names: list[str]) -> None:
    """Restart components, or single replicas of them."""
    mesh = Mesh.recorded(Home.from_environment())
    mesh.named(names)
    with Progress() as progress:
        for event in operations.ask(mesh.home, "restart", names).events():
            progress.event(event)


def rotate() -> None:
    """Replace all services' static credentials and the key of users' tokens without downtime.

    Previous credentials stay valid until the next rotation: after a leak, run it twice.
    """
    for what in static_credentials.rotate(Mesh.recorded(Home.from_environment())):
        print(f"replaced {what}")


def logs(  # noqa: PLR0917 (typer makes options of arguments)
    name: Annotated[str | None, typer.Argument(help="A component or replica.")] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines")] = 200,
    trace: Annotated[
        str | None, typer.Option(help="Lines of this trace, of every service.")
    ] = None,
    service: Annotated[str | None, typer.Option(help="Lines of this service or replica.")] = None,
    since: Annotated[str | None, typer.Option(help="30s, 10m, 2h, 1d or an RFC 3339 time.")] = None,
    grep: Annotated[str | None, typer.Option(help="Lines that match a regular expression.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Lines as they are stored.")] = False,
) -> None:
    """Follow or print a component's log; with conditions, search all logs, sorted by time.

    Conditions are evaluated by the log store (PROFILE=full) and supplemented from the files.
    """
    mesh = Mesh.recorded(Home.from_environment())
    if trace or service or since or grep or as_json:
        wanted = log_search.Wanted.parse(trace, service or name, since, grep)
        where, found = log_search.search(mesh, wanted, lines)
        for line in found:
            print(json.dumps(line, ensure_ascii=False) if as_json else log_search.show(line))
        print(f"{len(found)} lines from the {where}", file=sys.stderr)
        raise typer.Exit(0 if found else 1)
    chosen = [name] if name == "supervisor" else mesh.named([name or ""])
    paths = [str(path) for one in chosen if (path := mesh.home.log(one)).exists()]
    if not paths:
        raise DefinitionError(f"{name} has not written a log yet")
    tail = shutil.which("tail") or "tail"
    os.execv(tail, ["tail", "-n", str(lines), *(["-F"] if follow else []), *paths])  # noqa: S606


def endpoints(as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Print every address; with --json also the CA file that verifies it."""
    mesh = Mesh.recorded(Home.from_environment())
    if as_json:
        print(json.dumps(mesh.endpoints(), indent=2))
    else:
        _print_endpoints(mesh, [])


def provision(until: Until = None) -> None:
    """Download and install the components' dependencies; start nothing."""
    with Progress() as progress:
        operations.provide(wanted_mesh(), until or [], progress.note)


def deploy(
    steps: Annotated[list[str], typer.Argument(help=f"Of: {', '.join(dispatch.NAMES)}.")],
) -> None:
    """Run deploy steps against the mesh named by COINMESH_… settings, by default the local one."""
    settings = Mesh.recorded(Home.from_environment()).settings() | caller_environment()
    for step in steps:
        dispatch.run(step, settings)


def _print_endpoints(mesh: Mesh, targets: list[str]) -> None:
    shown: dict[str, Any] = mesh.endpoints()
    names = {key for c in mesh.closure(targets) for key in mesh.definitions[c].endpoints}
    for name, endpoint in shown.items():
        if name in names:
            print(f"  {name:<18} {endpoint['url']}")
