"""The user of this machine: its API key, exchanged at Vault for tokens, for clients of Envoy."""

import base64
import json
import time
from collections.abc import Generator
from pathlib import Path

import httpx
import requests
from hvac.exceptions import VaultError

from coinmesh_access import users
from coinmesh_access.login import Vault, VaultUnavailableError, explained
from coinmesh_local.mesh import Mesh

#: Below the secrets directory; the step `default-user` writes it.
KEY = Path("users/local/api-key")
#: A token is taken for spent so long before it is.
MARGIN_SECONDS = 30


def vault(mesh: Mesh) -> Vault:
    """Where the mesh's Vault is."""
    found = mesh.endpoints()["vault"]
    return Vault(str(found["url"]), Path(str(found["ca"])))


def token(mesh: Mesh, key: str | None = None) -> str:
    """A token for an API key, the local user's by default.

    Raises:
        VaultUnavailableError: There is no key yet, Vault doesn't answer or refuses the key.
        users.UserError: The key isn't one.
    """
    path = mesh.home.secrets / KEY
    if key is None:
        if not path.exists():
            raise VaultUnavailableError(f"there is no user yet: {path} is made by `coinmesh up`")
        key = path.read_text().strip()
    place = vault(mesh)
    try:
        return users.exchange(place.client(), key)
    except (VaultError, requests.RequestException) as error:
        raise explained(error, "exchange the API key", place.address) from error


class Bearer(httpx.Auth):
    """Shows the local user's token, a new one before the last ends."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh, self._token, self._ends = mesh, "", 0.0

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """httpx's hook."""
        if time.time() > self._ends - MARGIN_SECONDS:
            self._token = token(self._mesh)
            body = self._token.split(".")[1]
            self._ends = json.loads(base64.urlsafe_b64decode(body + "=="))["exp"]
        request.headers["authorization"] = f"Bearer {self._token}"
        yield request
