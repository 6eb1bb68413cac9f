"""Commands of `coinmesh-vault user`: users and their API keys."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from hvac.exceptions import VaultError

from coinmesh_access import accounting, files, users
from coinmesh_access.administration import administering
from coinmesh_access.login import USERS
from coinmesh_access.settings import (
    DEFAULT_ADDRESS,
    DEFAULT_CA,
    DEFAULT_SECRETS,
    AddressOption,
    CaOption,
    SecretsOption,
    vault,
)
from coinmesh_access.users import UserError
from coinmesh_audit.log import AuditSettings
from meshkit import logs
from meshkit.settings import read


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    user_app = typer.Typer(
        no_args_is_help=True,
        help="Users and their API keys; changes go on record as `cli`, by the COINMESH_ settings "
        "of Kafka and the registry, or aren't made.",
    )
    user_app.command("ensure")(user_ensure)
    app.add_typer(user_app, name="user")


def user_ensure(
    *,
    name: str,
    key: Annotated[Path, typer.Option(help="the file that keeps its API key, 0600")],
    role: Annotated[str, typer.Option(help="viewer, editor or admin")] = "admin",
    tier: Annotated[str, typer.Option(help="the quota's name")] = "unlimited",
    address: AddressOption = DEFAULT_ADDRESS,
    ca: CaOption = DEFAULT_CA,
    secrets: SecretsOption = DEFAULT_SECRETS,
) -> None:
    """Create a user and write its API key to a file; keep a key that is valid."""
    place = vault(address, ca)
    if key.exists():
        with suppress(VaultError, UserError):
            users.exchange(place.client(), key.read_text().strip())
            return
    with administering(address, ca, secrets, USERS) as client:
        files.private_directory(key.parent.parent)
        files.private_directory(key.parent)
        made = accounting.add_user(read(AuditSettings), client, name, role, tier)
        files.write(key, made + "\n")
        logs.tell(__name__, f"made the user {name}")
