"""`coinmesh`: errors become one line and an exit status, never a traceback."""

import signal
import sys

import click
import typer
from rich.console import Console

from coinmesh_cli import mesh
from coinmesh_local.control import SupervisorError
from coinmesh_local.definition import DefinitionError
from coinmesh_local.mesh import OptionError
from coinmesh_local.ports import PortTaken
from coinmesh_local.provision import ProvisionError

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, rich_markup_mode=None)
mesh.register(app)

#: Errors that a person can act on; anything else is a defect and shows its traceback.
EXPECTED = (
    SupervisorError,
    DefinitionError,
    OptionError,
    PortTaken,
    ProvisionError,
    OSError,
)


def main() -> None:
    """Run the command line; exit status 1 for a failure, 2 for wrong usage, 130 after Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except EXPECTED as error:
        tail = getattr(error, "tail", "")
        if tail:
            console.print(tail, markup=False, style="dim")
        console.print(f"error: {error}", markup=False, style="red")
        sys.exit(1)
