"""`coinmesh user` and `coinmesh token`: users of the public listener."""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated

import hvac
import requests
import typer
from hvac.exceptions import VaultError

from coinmesh_access import accounting, users
from coinmesh_access.login import USERS, explained
from coinmesh_audit.log import AuditSettings
from coinmesh_cli.records import settings_of
from coinmesh_local import local_user
from coinmesh_local.mesh import Mesh
from coinmesh_local.paths import Home

user_app = typer.Typer(no_args_is_help=True, help="Users and their API keys.")


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.add_typer(user_app, name="user")
    app.command()(token)


@contextmanager
def _administering() -> Generator[hvac.Client]:
    mesh = Mesh.recorded(Home.from_environment())
    place = local_user.vault(mesh)
    client = place.login(mesh.home.secrets, USERS)
    try:
        yield client
    except (VaultError, requests.RequestException) as error:
        raise explained(error, "do that", place.address) from error


@user_app.command()
def add(
    name: str,
    role: Annotated[str, typer.Option(help="viewer, editor or admin")] = "viewer",
    tier: Annotated[str, typer.Option(help="the quota: free, pro or unlimited")] = "free",
) -> None:
    """Create a user or a new key for a user; print the API key, which is not stored."""
    with _administering() as client:
        print(accounting.add_user(settings_of(AuditSettings), client, name, role, tier))


@user_app.command()
def remove(name: str) -> None:
    """Remove a user's key and logins; its tokens expire within 15 minutes."""
    with _administering() as client:
        accounting.remove_user(settings_of(AuditSettings), client, name)


@user_app.command("list")
def listed() -> None:
    """Print every user with role and tier."""
    with _administering() as client:
        for user in users.listed(client):
            print(f"{user.name:<24} {user.role:<8} {user.tier}")


def token(
    stdin: Annotated[
        bool, typer.Option("--stdin", help="Read the API key there, not the local user's.")
    ] = False,
) -> None:
    """Print a token for `Authorization: Bearer …`, valid for 15 minutes."""
    mesh = Mesh.recorded(Home.from_environment())
    print(local_user.token(mesh, sys.stdin.readline().strip() if stdin else None))
