"""The command `coinmesh-certs`."""

import typer

from coinmesh_access import certificate_commands
from coinmesh_access.proxies import bypass_for_loopback

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
certificate_commands.register(app)


@app.callback()
def certs() -> None:
    """Certificates from Vault, as files watched by the services."""
    bypass_for_loopback()


if __name__ == "__main__":
    app()
