"""Configure Vault according to the access table; repeatable at each start.

Only administrators' logins are replaced each time; services' are replaced with their certificates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import hvac
import requests
from hvac.exceptions import VaultError

from coinmesh_access import credentials, pki, store_key, users
from coinmesh_access.login import (
    SETUP,
    USERS,
    Vault,
    ensure_approle,
    explained,
    replace_secret_id,
)
from coinmesh_access.pki import Lives
from coinmesh_access.table import AccessTable
from coinmesh_access.users import TokenLives
from coinmesh_access.vault_policies import policy

AUDIT_KEY = "audit"


@dataclass(frozen=True)
class Setup:
    """Parameters that differ between a laptop, tests and a cluster.

    Attributes:
        lives: Lifetimes of certificates.
        token_lives: Lifetimes of users' tokens.
        login_cidrs: Networks from which services may log in by AppRole; empty: any.
        domains: DNS suffixes of services beside their bare names.
    """

    lives: Lives = field(default_factory=Lives)
    token_lives: TokenLives = field(default_factory=TokenLives)
    login_cidrs: Sequence[str] = ("127.0.0.1/32",)
    domains: Sequence[str] = ()


def run(vault: Vault, secrets_dir: Path, table: AccessTable, setup: Setup) -> list[str]:
    """Configure Vault and return a description of each change.

    Raises:
        AccessError: One of the PKI mounts is used otherwise; nothing was changed.
        VaultUnavailableError: Vault is unreachable or rejects a request.
    """
    client = vault.login(secrets_dir, SETUP)
    try:
        return _run(vault, client, secrets_dir, table, setup)
    except (VaultError, requests.RequestException) as error:
        raise explained(error, "set Vault up", vault.address) from error
    finally:
        client.logout(revoke_token=False)


def _run(
    vault: Vault, client: hvac.Client, secrets_dir: Path, table: AccessTable, setup: Setup
) -> list[str]:
    done: list[str] = []
    if pki.ensure_authorities(client, setup.lives):
        done.append("made the root and the signing authority")
    mounted = client.sys.list_mounted_secrets_engines()["data"]
    if f"{credentials.MOUNT}/" not in mounted:
        client.sys.enable_secrets_engine("kv", credentials.MOUNT, options={"version": "2"})
    if "transit/" not in mounted:
        client.sys.enable_secrets_engine("transit")
    if client.read(f"transit/keys/{AUDIT_KEY}") is None:
        client.secrets.transit.create_key(AUDIT_KEY, key_type="ed25519")
        done.append("made the audit key")
    users.ensure_issuer(client, setup.token_lives)
    rules = resources("coinmesh_access").joinpath("users-policy.hcl").read_text()
    client.sys.create_or_update_acl_policy(USERS, rules)
    if ensure_approle(client, secrets_dir, USERS, _approle(USERS, setup)):
        done.append(f"made the login of {USERS}")
    users.adopt_groups(vault.login(secrets_dir, USERS))
    for name in table.services:
        pki.ensure_role(client, table, name, setup.lives, setup.domains)
        client.sys.create_or_update_acl_policy(name, policy(table, name))
        if ensure_approle(client, secrets_dir, name, _approle(name, setup)):
            done.append(f"made the login of {name}")
    done += [f"made kv/{path}" for path in credentials.ensure(client, table)]
    if store_key.ensure(client):
        done.append(f"made kv/{store_key.PATH}")
    done += [f"took the access of {name} away" for name in _remove_strangers(client, table)]
    replace_secret_id(client, secrets_dir, USERS)
    replace_secret_id(client, secrets_dir, SETUP, "setup")
    return done


def _approle(name: str, setup: Setup) -> dict[str, object]:
    cidrs = list(setup.login_cidrs)
    return {
        "token_policies": [name],
        "token_no_default_policy": True,
        "token_ttl": "20m",
        "token_max_ttl": "1h",
        "token_bound_cidrs": cidrs,
        "secret_id_bound_cidrs": cidrs,
        "secret_id_num_uses": 0,
    }


def _remove_strangers(client: hvac.Client, table: AccessTable) -> list[str]:
    """Remove policies, roles and logins of services that left the table.

    A service is an identity with a role at the signing CA, which only the mesh uses; Vault's other
    policies and logins may have other owners.
    """
    roles: Any = client.list(f"{pki.INTERMEDIATE}/roles")
    strangers = [name for name in roles["data"]["keys"] if name not in table.services]
    for name in strangers:
        client.delete(f"auth/approle/role/{name}")
        client.sys.delete_acl_policy(name)
        client.delete(f"{pki.INTERMEDIATE}/roles/{name}")
    return strangers


def configure_kubernetes(
    client: hvac.Client,
    table: AccessTable,
    *,
    host: str,
    ca: str | None = None,
    namespace: str = "coinmesh",
    ttl: str = "20m",
) -> None:
    """Configure pod logins by service account instead of AppRole.

    Args:
        client: Logged in as the setup.
        table: The access table.
        host: The Kubernetes API's URL as Vault reaches it.
        ca: Its CA certificate, PEM; None when Vault runs in the cluster, where it has it.
        namespace: Namespace of the service accounts; each has its service's name.
        ttl: A token's lifetime.
    """
    if "kubernetes/" not in client.sys.list_auth_methods()["data"]:
        client.sys.enable_auth_method("kubernetes")
    configuration: dict[str, object] = {"kubernetes_host": host}
    if ca is not None:
        # Outside the cluster a pod's own token is presented for review.
        configuration |= {"kubernetes_ca_cert": ca, "disable_local_ca_jwt": True}
    client.write_data("auth/kubernetes/config", data=configuration)
    for name in table.services:
        client.write_data(
            f"auth/kubernetes/role/{name}",
            data={
                "bound_service_account_names": [name],
                "bound_service_account_namespaces": [namespace],
                "token_policies": [name],
                "token_no_default_policy": True,
                "token_ttl": ttl,
            },
        )
