"""Users: API keys exchanged for short-lived JWTs that OpenBao signs (identity tokens).

A user is an entity whose metadata hold its role and tier, with a login at `auth/users`. An API key
is `cm_<user>_<secret>`: exchanging it is a login followed by a read of `identity/oidc/token/users`.
Envoy verifies the JWT with `/v1/identity/oidc/.well-known/keys`.
"""

import re
import secrets
from dataclasses import dataclass
from typing import Any

import hvac

ROLES = ("viewer", "editor", "admin")
MOUNT, KEY, ROLE, POLICY = "users", "coinmesh-users", "users", "user"
AUDIENCE = "coinmesh"
_NAME = re.compile(r"[a-z][a-z0-9.-]{0,62}")
_SECRET_BYTES = 32


class UserError(Exception):
    """Raised when a user's name, role or key is invalid."""


@dataclass(frozen=True)
class TokenLives:
    """Lifetimes in seconds of a JWT, of a login, and of a signing key until its rotation.

    A browser uses a login to obtain new JWTs; it has no other permission, and is revoked
    immediately when its user is removed or gets a new key. The public half of a retired key stays
    published for `verification`: longer than `token`.
    """

    token: int = 900
    login: int = 8 * 3600
    rotation: int = 86_400
    verification: int = 2 * 86_400


DEFAULT_LIVES = TokenLives()


@dataclass(frozen=True)
class User:
    """A user of the public listener."""

    name: str
    role: str
    tier: str


def ensure_issuer(client: hvac.Client, lives: TokenLives) -> str:
    """Configure signing key, token role and login of users; return the issuer's URL."""
    if f"{MOUNT}/" not in client.sys.list_auth_methods()["data"]:
        client.sys.enable_auth_method("userpass", path=MOUNT)
    # Keys are 256 random bits: guessing is infeasible, while a lockout would deny service.
    client.write_data(
        f"sys/auth/{MOUNT}/tune", data={"user_lockout_config": {"lockout_disable": True}}
    )
    client.write_data("identity/oidc/config", data={"issuer": client.url})
    client.write_data(
        f"identity/oidc/key/{KEY}",
        data={
            # Supported by Envoy's jwt_authn and by browsers' libraries.
            "algorithm": "ES256",
            "rotation_period": f"{lives.rotation}s",
            "verification_ttl": f"{lives.verification}s",
            "allowed_client_ids": [AUDIENCE],
        },
    )
    template = (
        '{"name": {{identity.entity.name}}, "roles": [{{identity.entity.metadata.role}}], '
        '"tier": {{identity.entity.metadata.tier}}}'
    )
    client.write_data(
        f"identity/oidc/role/{ROLE}",
        data={"key": KEY, "client_id": AUDIENCE, "ttl": f"{lives.token}s", "template": template},
    )
    client.sys.create_or_update_acl_policy(
        POLICY, f'path "identity/oidc/token/{ROLE}" {{ capabilities = ["read"] }}\n'
    )
    return f"{client.url}/v1/identity/oidc"


def add(
    client: hvac.Client,
    name: str,
    role: str,
    tier: str = "free",
    lives: TokenLives = DEFAULT_LIVES,
) -> str:
    """Create a user or replace its key, role and tier; return the API key, which is not stored.

    The previous key and the logins created with it are revoked; their JWTs expire.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"user {name!r}: a name is lower-case letters, digits, dots and dashes")
    if role not in ROLES:
        raise UserError(f"role {role!r} is none of {', '.join(ROLES)}")
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    client.write_data(
        f"auth/{MOUNT}/users/{name}",
        data={
            "password": secret,
            "token_policies": POLICY,
            "token_no_default_policy": True,
            # Batch tokens are not stored, so that logins cost Vault nothing.
            "token_type": "batch",
            "token_ttl": f"{lives.login}s",
            "token_max_ttl": f"{lives.login}s",
        },
    )
    # A login is valid as long as its entity, regardless of the password.
    client.delete(f"identity/entity/name/{name}")
    client.write_data(
        f"identity/entity/name/{name}", data={"metadata": {"role": role, "tier": tier}}
    )
    entity = _data(client, f"identity/entity/name/{name}")["id"]
    accessor = client.sys.list_auth_methods()["data"][f"{MOUNT}/"]["accessor"]
    client.write_data(
        "identity/entity-alias",
        data={"name": name, "canonical_id": entity, "mount_accessor": accessor},
    )
    return f"cm_{name}_{secret}"


def remove(client: hvac.Client, name: str) -> None:
    """Remove a user's login and identity; its JWTs stay valid until they expire."""
    client.delete(f"auth/{MOUNT}/users/{name}")
    client.delete(f"identity/entity/name/{name}")


def listed(client: hvac.Client) -> list[User]:
    """Return all users, sorted by name."""
    # A service that logs in by AppRole has an entity too, but one without a chosen name.
    logins: Any = client.list(f"auth/{MOUNT}/users")
    found: list[User] = []
    for name in logins["data"]["keys"] if logins else ():
        metadata = _data(client, f"identity/entity/name/{name}").get("metadata") or {}
        found.append(User(name, metadata.get("role", ""), metadata.get("tier", "")))
    return sorted(found, key=lambda user: user.name)


def adopt_groups(client: hvac.Client) -> None:
    """Migrate roles stored as group membership to the metadata of users that have no role.

    Groups were replaced because updating the members rewrites the whole list, so that one of two
    concurrent changes was lost.
    """
    users_without = {user.name: user.tier for user in listed(client) if not user.role}
    if not users_without:
        return
    for role in ROLES:
        members = _data(client, f"identity/group/name/{role}").get("member_entity_ids") or ()
        for name, tier in users_without.items():
            path = f"identity/entity/name/{name}"
            if _data(client, path).get("id") in members:
                client.write_data(path, data={"metadata": {"role": role, "tier": tier}})


def exchange(client: hvac.Client, api_key: str) -> str:
    """Exchange an API key for a short-lived JWT; `client` is logged out afterwards.

    Raises:
        UserError: The key is malformed.
        hvac.exceptions.VaultError: Vault rejects the key.
    """
    match = re.fullmatch(r"cm_([a-z][a-z0-9.-]*)_(.+)", api_key)
    if match is None:
        raise UserError("an API key looks like cm_<user>_<secret>")
    try:
        client.auth.userpass.login(match[1], match[2], mount_point=MOUNT)
        return _data(client, f"identity/oidc/token/{ROLE}")["token"]
    finally:
        client.logout()


def rotate_key(client: hvac.Client) -> None:
    """Rotate the signing key; tokens signed with the previous one stay valid until they expire."""
    client.write_data(f"identity/oidc/key/{KEY}/rotate", data={})


def _data(client: hvac.Client, path: str) -> dict[str, Any]:
    """Return the data at a path, empty when there are none."""
    found: Any = client.read(path)
    return found["data"] if found else {}
