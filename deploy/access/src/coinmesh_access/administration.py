"""Login and error reporting shared by the commands that administer Vault."""

import logging
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import hvac
import requests
from hvac.exceptions import VaultError

from coinmesh_access.login import SETUP, VaultUnavailableError, explained
from coinmesh_access.settings import vault
from coinmesh_access.table import AccessError
from coinmesh_access.users import UserError
from meshkit import logs
from meshkit.errors import MeshError
from meshkit.settings import SettingsError


@contextmanager
def exit_on_error() -> Generator[None]:
    """Print an expected error as one line and exit with status 1."""
    try:
        yield
    except (AccessError, VaultUnavailableError, UserError, MeshError, SettingsError) as error:
        logs.tell(__name__, f"error: {error}", logging.ERROR)
        sys.exit(1)


@contextmanager
def administering(
    address: str, ca: Path, secrets: Path, identity: str = SETUP
) -> Generator[hvac.Client]:
    """Yield a Vault client logged in as `identity`; exit with status 1 when Vault fails."""
    place = vault(address, ca)
    with exit_on_error():
        client = place.login(secrets, identity)
        try:
            yield client
        except (VaultError, requests.RequestException) as error:
            raise explained(error, "do that", place.address) from error
