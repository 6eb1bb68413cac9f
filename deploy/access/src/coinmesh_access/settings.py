"""Options shared by the three commands."""

from pathlib import Path
from typing import Annotated

import typer

from coinmesh_access.login import Vault
from coinmesh_access.table import TABLE

AddressOption = Annotated[
    str, typer.Option(envvar="COINMESH_VAULT_ADDR", help="Vault's URL, https://host:port")
]
CaOption = Annotated[
    Path, typer.Option(envvar="COINMESH_VAULT_CA", help="the authority of Vault's listener, PEM")
]
SecretsOption = Annotated[
    Path,
    typer.Option(
        "--secrets",
        envvar="COINMESH_SECRETS_DIR",
        help="the directory with a login for each service",
    ),
]
TableOption = Annotated[
    Path, typer.Option("--table", envvar="COINMESH_ACCESS_TABLE", help="the access table")
]
DEFAULT_ADDRESS = "https://127.0.0.1:18200"
DEFAULT_SECRETS = Path(".coinmesh/secrets")
DEFAULT_CA = DEFAULT_SECRETS / "openbao" / "ca.crt"
DEFAULT_TABLE = TABLE


def vault(address: str, ca: Path) -> Vault:
    """Return the address of Vault; raise typer.BadParameter for invalid options."""
    if not address.startswith("https://"):
        raise typer.BadParameter(f"Vault's address {address!r} must begin with https://")
    if not ca.is_file():
        raise typer.BadParameter(
            f"{ca} is not there: start OpenBao first, or name the authority of your Vault by "
            "COINMESH_VAULT_CA"
        )
    return Vault(address, ca)
