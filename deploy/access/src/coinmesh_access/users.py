"""Users: API keys exchanged for short JWTs that OpenBao signs and rotates (identity tokens).

A user is an entity whose metadata hold its role and tier, with a login at `auth/users`. An API key
is `cm_<user>_<secret>`: exchanging it is a login followed by a read of `identity/oidc/token/users`.
Envoy checks the JWT against `/v1/identity/oidc/.well-known/keys`.
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
    """A user's name, role or key is wrong."""


@dataclass(frozen=True)
class TokenLives:
    """Lives in seconds: a JWT's, a login's, and a signing key's until the next takes over.

    A login is what a browser gets new JWTs by; it can do nothing else, and ends at once when its
    user is removed or gets a new key. A retired key's public half stays published for
    `verification`: longer than `token`.
    """

    token: int = 900
    login: int = 8 * 3600
    rotation: int = 86_400
    verification: int = 2 * 86_400


DEFAULT_LIVES = TokenLives()


@dataclass(frozen=True)
class User:
    """Who may come through the public listener."""

    name: str
    role: str
    tier: str


def ensure_issuer(client: hvac.Client, lives: TokenLives) -> str:
    """Signing key, token role and login of users; the issuer's URL."""
    if f"{MOUNT}/" not in client.sys.list_auth_methods()["data"]:
        client.sys.enable_auth_method("userpass", path=MOUNT)
    # Keys are 256 random bits: guessing is hopeless, locking a user out would not be.
    client.write_data(
        f"sys/auth/{MOUNT}/tune", data={"user_lockout_config": {"lockout_disable": True}}
    )
    client.write_data("identity/oidc/config", data={"issuer": client.url})
    client.write_data(
        f"identity/oidc/key/{KEY}",
        data={
            # Envoy's jwt_authn and browsers' libraries all know it.
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
    """Make a user or give one a new key, role and tier; the API key, which nobody keeps.

    The key before and the logins made with it end; JWTs that were had by them run out.
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
            # Kept nowhere, so that logins cost Vault nothing.
            "token_type": "batch",
            "token_ttl": f"{lives.login}s",
            "token_max_ttl": f"{lives.login}s",
        },
    )
    # A login lives as long as its entity, whatever becomes of the password.
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
    """Take a user's login and identity away; JWTs that it holds run out by themselves."""
    client.delete(f"auth/{MOUNT}/users/{name}")
    client.delete(f"identity/entity/name/{name}")


def listed(client: hvac.Client) -> list[User]:
    """All users, by name."""
    # A service that logs in by AppRole gets an entity too, one without a name of its own.
    logins: Any = client.list(f"auth/{MOUNT}/users")
    found: list[User] = []
    for name in logins["data"]["keys"] if logins else ():
        metadata = _data(client, f"identity/entity/name/{name}").get("metadata") or {}
        found.append(User(name, metadata.get("role", ""), metadata.get("tier", "")))
    return sorted(found, key=lambda user: user.name)


def adopt_groups(client: hvac.Client) -> None:
    """Write the roles of users that are members of a role's group, as they were kept before.

    A group's members can be replaced only as a whole, so that two changes at once lost one.
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
    """A short JWT for an API key; `client` needs no login and has none afterwards.

    Raises UserError for a malformed key, hvac's errors for one that Vault refuses.
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
    """Sign tokens with a new key; those signed with the one before stay valid until they end."""
    client.write_data(f"identity/oidc/key/{KEY}/rotate", data={})


def _data(client: hvac.Client, path: str) -> dict[str, Any]:
    """What a path holds, empty when there is nothing."""
    found: Any = client.read(path)
    return found["data"] if found else {}
