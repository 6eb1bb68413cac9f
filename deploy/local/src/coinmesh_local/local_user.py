"""The user of this machine: its API key, exchanged for tokens, for clients of Envoy."""

import base64
import json
import time
from collections.abc import Generator
from pathlib import Path

import httpx

from coinmesh_access.login import Vault
from coinmesh_local.mesh import Mesh
from meshkit.errors import Unauthenticated, Unavailable
from meshkit.tls import trusting_ssl_context

#: Below the secrets directory; written by the step `default-user`.
KEY = Path("users/local/api-key")
#: A token is replaced this long before it expires.
MARGIN_SECONDS = 30
TIMEOUT_SECONDS = 15


def vault(mesh: Mesh) -> Vault:
    """Return the address and CA file of the mesh's Vault."""
    found = mesh.endpoints()["vault"]
    return Vault(str(found["url"]), Path(str(found["ca"])))


def token(mesh: Mesh, key: str | None = None) -> str:
    """Return a token for an API key, by default the local user's, from the public login.

    Raises:
        Unavailable: There is no key yet, or login is unavailable.
        Unauthenticated: The key is invalid.
    """
    rest = mesh.endpoints()["rest"]
    request = _login(httpx.URL(str(rest["url"])), _own_key(mesh) if key is None else key)
    trusted = trusting_ssl_context(str(rest["ca"]))
    try:
        with httpx.Client(verify=trusted, timeout=TIMEOUT_SECONDS) as client:
            answer = client.send(request)
            answer.raise_for_status()
    except httpx.HTTPStatusError as error:
        body = error.response.json()
        kind = Unauthenticated if error.response.status_code in (400, 401) else Unavailable
        raise kind(body["details"][0]["reason"], body["message"]) from error
    except httpx.HTTPError as error:
        raise Unavailable(
            "NO_LOGIN", f"{rest['url']} doesn't answer ({error}); see `coinmesh status`"
        ) from error
    return str(answer.json()["token"])


def _own_key(mesh: Mesh) -> str:
    path = mesh.home.secrets / KEY
    if not path.exists():
        raise Unavailable("NO_USER", f"there is no user yet: {path} is made by `coinmesh up`")
    return path.read_text().strip()


def _login(url: httpx.URL, key: str) -> httpx.Request:
    return httpx.Request("POST", url.join("/v1/session"), json={"apiKey": key})


class Bearer(httpx.Auth):
    """Authenticate with the local user's token and renew it before it expires.

    For clients without asyncio.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh, self._token, self._ends = mesh, "", 0.0

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Implement httpx's hook; while login fails, the login's response becomes the request's."""
        if time.time() > self._ends - MARGIN_SECONDS:
            answer = yield _login(request.url, _own_key(self._mesh))
            if answer.is_error:
                return
            answer.read()
            self._token = answer.json()["token"]
            body = self._token.split(".")[1]
            self._ends = json.loads(base64.urlsafe_b64decode(body + "=="))["exp"]
        request.headers["authorization"] = f"Bearer {self._token}"
        yield request
