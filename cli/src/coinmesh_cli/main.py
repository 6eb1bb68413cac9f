"""Run and inspect a Coinmesh mesh on this machine."""

import signal
import sys

import typer
from rich.console import Console

from coinmesh_access.proxies import bypass_for_loopback
from coinmesh_cli import audit, dlq, doctor, gaps, mesh, raw, status, tail, trace, users
from coinmesh_cli.expected_errors import EXPECTED

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help=__doc__,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
mesh.register(app)
status.register(app)
doctor.register(app)
tail.register(app)
dlq.register(app)
gaps.register(app)
users.register(app)
trace.register(app)
audit.register(app)
raw.register(app)


def main() -> None:
    """Run the command line; exit status 1 for a failure, 2 for wrong usage, 130 after Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    bypass_for_loopback()
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except EXPECTED as error:
        tail = getattr(error, "tail", "")
        if tail:
            console.print(tail, markup=False, style="dim")
        console.print(f"error: {error}", markup=False, style="red")
        sys.exit(1)
