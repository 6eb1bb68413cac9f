"""Kafka's mapping of certificates to principals, and the super users exempt from ACLs."""

from coinmesh_access.table import AccessTable

#: The broker's `ssl.principal.mapping.rules`: only certificates that Vault issued to services
#: (OU=svc) become `User:<service>`. Java prints the name with its last part first.
PRINCIPAL_RULE = "RULE:^CN=([^,]+),OU=svc,O=coinmesh$/$1/,DEFAULT"


def super_users(table: AccessTable) -> str:
    """Return the broker's `super.users`."""
    names = [name for name, entry in table.services.items() if entry.kafka.super]
    return ";".join(f"User:{name}" for name in sorted(names))
