"""The command `coinmesh-vault`."""

import typer

from coinmesh_access import user_commands, vault_commands
from coinmesh_access.proxies import bypass_for_loopback
from meshkit import logs

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
vault_commands.register(app)
user_commands.register(app)


@app.callback()
def coinmesh_vault() -> None:
    """Configure Vault according to the access table, and manage its users."""
    bypass_for_loopback()
    logs.configure_command()


if __name__ == "__main__":
    app()
