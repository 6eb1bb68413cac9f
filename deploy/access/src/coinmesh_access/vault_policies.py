"""Vault policies: a service's own signing path and secrets, and nothing else."""

import json

from coinmesh_access.table import AccessTable


def paths(table: AccessTable, name: str) -> dict[str, str]:
    """Return path → capability of a service's grants beyond its own login and token."""
    access = table.service(name).vault
    found = {f"pki_int/sign/{name}": "update", f"kv/data/{name}/*": "read"}
    found |= {f"kv/data/{path}": "read" for path in access.read}
    if access.sign_audit:
        found["transit/sign/audit"] = "update"
    if access.sign_audit or access.check_audit:
        found["transit/keys/audit"] = "read"
    return found


def policy(table: AccessTable, name: str) -> str:
    """Return the policy of a service, as HCL.

    Its tokens don't have Vault's built-in `default` policy, so these are all their permissions.
    """
    login = f"auth/approle/role/{name}/secret-id"
    own = dict.fromkeys(("auth/token/renew-self", "auth/token/revoke-self"), "update")
    own |= {
        login: "list update",
        f"{login}/lookup": "update",
        f"{login}-accessor/destroy": "update",
    }
    lines = [
        f'path "{path}" {{ capabilities = {json.dumps(verbs.split())} }}'
        for path, verbs in (paths(table, name) | own).items()
    ]
    return "\n".join(lines) + "\n"
