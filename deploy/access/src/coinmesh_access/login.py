"""Clients of Vault: AppRole logins with files that only their service can read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hvac
import requests
from hvac.exceptions import InvalidRequest, VaultDown, VaultError

from coinmesh_access import files

#: The directory of `coinmesh-vault setup`'s login below the secrets directory.
SETUP = "vault-setup"
#: The directory of the login that administers users, created by the setup.
USERS = "vault-users"
TIMEOUT_SECONDS = 10


class VaultUnavailableError(Exception):
    """Raised when Vault is unreachable, is sealed or rejected a request, with the reason."""


class VaultAwayError(VaultUnavailableError):
    """Raised when Vault is unreachable or sealed, as opposed to rejecting a request."""


@dataclass(frozen=True)
class Vault:
    """The address of Vault.

    Attributes:
        address: `https://host:port`.
        ca: The CA certificate of its listener.
    """

    address: str
    ca: Path

    def client(self, token: str | None = None) -> hvac.Client:
        """Return a client, logged in only if `token` is given."""
        return hvac.Client(
            url=self.address, token=token, verify=str(self.ca), timeout=TIMEOUT_SECONDS
        )

    def login(self, secrets_dir: Path, name: str) -> hvac.Client:
        """Return a client logged in by the AppRole whose ids are in `secrets_dir/name/`."""
        directory = secrets_dir / name
        try:
            role_id = (directory / "role-id").read_text().strip()
            secret_id = (directory / "secret-id").read_text().strip()
        except OSError as error:
            raise VaultUnavailableError(
                f"{name} has no login: can't read {error.filename}; run `coinmesh-vault setup`"
            ) from error
        client = self.client()
        try:
            client.auth.approle.login(role_id, secret_id)
        except (VaultError, requests.RequestException) as error:
            raise explained(error, f"log in as {name}", self.address) from error
        return client


def explained(error: Exception, what: str, address: str) -> VaultUnavailableError:
    """Return the error with its cause: unreachable, sealed, or rejected."""
    if isinstance(error, requests.RequestException):
        return VaultAwayError(
            f"can't {what}: Vault at {address} doesn't answer ({type(error).__name__})"
        )
    # hvac puts the URL into the text; Vault's own errors are enough.
    reasons = getattr(error, "errors", None) or [type(error).__name__]
    kind = VaultAwayError if isinstance(error, VaultDown) else VaultUnavailableError
    return kind(f"can't {what} at {address}: {'; '.join(map(str, reasons))}")


def ensure_approle(client: hvac.Client, secrets_dir: Path, name: str, settings: Any) -> bool:
    """Create a service's AppRole and write its ids; return whether a secret id was generated.

    A valid secret id is kept, so that a running agent keeps its login.
    """
    approle = client.auth.approle
    approle.create_or_update_approle(name, **settings)
    directory = files.private_directory(files.private_directory(secrets_dir) / name)
    role_id = approle.read_role_id(name)["data"]["role_id"]
    files.write(directory / "role-id", role_id)
    path = directory / "secret-id"
    if path.exists() and _works(client, name, path.read_text().strip()):
        return False
    files.write(path, approle.generate_secret_id(name)["data"]["secret_id"])
    return True


def replace_secret_id(
    client: hvac.Client, secrets_dir: Path, name: str, role: str | None = None
) -> None:
    """Replace the secret id of a login (of the AppRole `role`, by default `name`).

    The previous one stays valid until the next replacement, for processes that have just read it;
    all others are destroyed. A role's login therefore belongs to one secrets directory.
    """
    approle, role = client.auth.approle, role or name
    path = secrets_dir / name / "secret-id"
    with files.alone_in(path.parent):
        before = approle.read_secret_id(role, path.read_text().strip())["data"]
        made = approle.generate_secret_id(role)["data"]
        files.write(path, made["secret_id"])
        kept = {each["secret_id_accessor"] for each in (before, made)}
        for accessor in approle.list_secret_id_accessors(role)["data"]["keys"]:
            if accessor not in kept:
                approle.destroy_secret_id_accessor(role, accessor)


def _works(client: hvac.Client, name: str, secret_id: str) -> bool:
    try:
        found = client.auth.approle.read_secret_id(name, secret_id)
    except InvalidRequest:
        return False
    return isinstance(found, dict) and bool(found.get("data"))
