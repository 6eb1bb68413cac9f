"""Vault policies: a service's own signing path and secrets, and nothing else."""

from coinmesh_access.table import AccessTable


def policy(table: AccessTable, name: str) -> str:
    """The policy of a service, as HCL.

    Vault's built-in `default` policy is left out of its tokens, so this is all they can do.
    """
    access = table.service(name).vault
    rules = {
        f"pki_int/sign/{name}": "update",
        f"kv/data/{name}/*": "read",
        "auth/token/renew-self": "update",
        "auth/token/revoke-self": "update",
    }
    rules |= {f"kv/data/{path}": "read" for path in access.read}
    if access.sign_audit:
        rules["transit/sign/audit"] = "update"
        rules["transit/verify/audit"] = "update"
    lines = [f'path "{path}" {{ capabilities = ["{verb}"] }}' for path, verb in rules.items()]
    return "\n".join(lines) + "\n"
