"""The command `coinmesh-access`."""

import typer

from coinmesh_access import access_commands
from coinmesh_access.proxies import bypass_for_loopback
from meshkit import logs

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
access_commands.register(app)


@app.callback()
def coinmesh_access() -> None:
    """Show the access table and apply it to components."""
    bypass_for_loopback()
    logs.configure_command()


if __name__ == "__main__":
    app()
