"""Authentication of users at the public listener, and protection from forged requests.

A user sends a JWT issued by Vault, as a bearer token or in a browser's cookie. Envoy verifies it
with Vault's published keys, which it fetches periodically, and forwards the claims in its own
headers; the same headers of a client are removed first.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from coinmesh_gateway.catalogue import CatalogueError
from coinmesh_gateway.clusters import http_cluster
from coinmesh_gateway.tls import ServerCa
from meshkit.authz import ROLES_HEADER, TIER_HEADER, USER_HEADER
from meshkit.cookies import CSRF_COOKIE, CSRF_HEADER, CSRF_LENGTH, TOKEN_COOKIE
from meshkit.settings import Address

JWT_FILTER = "envoy.filters.http.jwt_authn"
_HTTP = "type.googleapis.com/envoy.extensions.filters.http."
_VAULT = "vault"
_AUDIENCE = "coinmesh"
#: Key of the claims in the metadata of JWT_FILTER, for later filters.
PAYLOAD = "user"
_CLAIMS = {"name": USER_HEADER, "roles": ROLES_HEADER, "tier": TIER_HEADER}


@dataclass(frozen=True)
class Vault:
    """The issuer of accepted tokens.

    Attributes:
        url: `https://host:port`, also the prefix of the tokens' issuer.
        ca: The CA certificate of its listener, PEM.
        refresh_seconds: Interval between fetches of its keys. A key is published one rotation
            before it is used, so this may be as long as the time between two rotations.
    """

    url: str
    ca: Path
    refresh_seconds: float = 60

    @property
    def issuer(self) -> str:
        """Return the `iss` of its tokens."""
        return f"{self.url}/v1/identity/oidc"

    @property
    def address(self) -> Address:
        """Return its address; raise CatalogueError when the URL isn't https://HOST:PORT."""
        parts = urlsplit(self.url)
        if parts.scheme != "https" or not parts.hostname or parts.path.strip("/"):
            raise CatalogueError(f"--vault {self.url!r}: expected https://HOST:PORT")
        return Address(parts.hostname, parts.port or 443)


def filters(vault: Vault) -> list[dict[str, Any]]:
    """Return the filters that precede any other filter acting on a request."""
    source = {"default_source_code": {"inline_string": _FORGED}}
    lua = {"@type": f"{_HTTP}lua.v3.Lua", **source}
    jwt = {"@type": f"{_HTTP}jwt_authn.v3.JwtAuthentication", **_authentication(vault)}
    return [
        {"name": "envoy.filters.http.lua", "typed_config": lua},
        {"name": JWT_FILTER, "typed_config": jwt},
    ]


def vault_ca(vault: Vault, secrets_dir: Path) -> ServerCa:
    """Return the CAs of Vault's listener, with the SDS file in `secrets_dir`."""
    return ServerCa(_VAULT, vault.ca, secrets_dir)


def cluster(vault: Vault, ca: ServerCa) -> dict[str, Any]:
    """Return the cluster of Vault."""
    return http_cluster(_VAULT, vault.address, ca)


def without_token() -> dict[str, Any]:
    """Return the per-route configuration of a route that requires no token."""
    return {JWT_FILTER: {"@type": f"{_HTTP}jwt_authn.v3.PerRouteConfig", "disabled": True}}


def no_spoofing() -> list[dict[str, Any]]:
    """Remove headers reserved for Envoy before any other processing of the request."""
    mutation = {"remove_on_match": {"key_matcher": {"prefix": "x-coinmesh-"}}}
    kind = "http.early_header_mutation.header_mutation.v3.HeaderMutation"
    return [
        {
            "name": "envoy.http.early_header_mutation.header_mutation",
            "typed_config": {
                "@type": f"type.googleapis.com/envoy.extensions.{kind}",
                "mutations": [mutation],
            },
        }
    ]


def _authentication(vault: Vault) -> Mapping[str, Any]:
    return {
        "providers": {
            "users": {
                "issuer": vault.issuer,
                "audiences": [_AUDIENCE],
                "require_expiration": True,
                "clock_skew_seconds": 5,
                "from_headers": [{"name": "Authorization", "value_prefix": "Bearer "}],
                "from_cookies": [TOKEN_COOKIE],
                "forward": False,
                "payload_in_metadata": PAYLOAD,
                "claim_to_headers": [
                    {"claim_name": claim, "header_name": header}
                    for claim, header in _CLAIMS.items()
                ],
                "remote_jwks": {
                    "http_uri": {
                        "uri": f"{vault.issuer}/.well-known/keys",
                        "cluster": _VAULT,
                        "timeout": "5s",
                    },
                    "cache_duration": f"{vault.refresh_seconds:g}s",
                    # In the background: fetched keys stay in use until Vault returns new ones.
                    "async_fetch": {"failed_refetch_duration": "1s"},
                },
                "jwt_cache_config": {"jwt_cache_size": 1000},
            }
        },
        "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "users"}}],
    }


# Browsers send cookies automatically, so a change must also repeat the CSRF token, which no other
# site can read. A bearer token is always sent on purpose.
_FORGED = f"""
local reading = {{GET = true, HEAD = true, OPTIONS = true}}
function envoy_on_request(handle)
  local headers = handle:headers()
  if reading[headers:get(":method")] then return end
  if (headers:get("authorization") or ""):sub(1, 7) == "Bearer " then return end
  local cookies = headers:get("cookie") or ""
  if not cookies:find("-coinmesh", 1, true) then return end
  local token = headers:get("{CSRF_HEADER}") or ""
  local wanted = "; {CSRF_COOKIE}=" .. token .. ";"
  if #token < {CSRF_LENGTH} or not ("; " .. cookies .. ";"):find(wanted, 1, true) then
    handle:respond({{[":status"] = "403"}}, "")
  end
end
"""
