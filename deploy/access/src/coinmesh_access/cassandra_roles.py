"""Cassandra roles, grants and SPIFFE identities as CQL, and their application."""

from collections.abc import Iterable, Iterator
from typing import Any

from coinmesh_access.table import AccessTable

#: Permissions for the two kinds of table access.
_GRANTS = {"SELECT": "select", "MODIFY": "modify"}


def role(service: str) -> str:
    """Return the service's role, quoted, because names contain dashes."""
    return f'"{service}"'


def statements(table: AccessTable) -> Iterator[str]:
    """Yield repeatable CQL that creates the table's roles, identities and grants.

    Grants that are no longer in the table are revoked by `revocations`.
    """
    for name, entry in table.services.items():
        if not entry.uses_cassandra:
            continue
        rights = f"SUPERUSER = {str(entry.cassandra.admin).lower()} AND LOGIN = true"
        yield f"CREATE ROLE IF NOT EXISTS {role(name)} WITH {rights}"
        if not entry.cassandra.admin:
            # For a former administrator; a role can't alter this for itself.
            yield f"ALTER ROLE {role(name)} WITH {rights}"
        # Only here is a role a string: the grammar of this statement rejects double quotes.
        yield f"ADD IDENTITY IF NOT EXISTS '{table.spiffe_id(name)}' TO ROLE '{name}'"
        for permission, resource in sorted(_wanted(table, name)):
            yield f"GRANT {permission} ON {resource} TO {role(name)}"


def revocations(table: AccessTable, present: Iterable[tuple[str, str, str]]) -> Iterator[str]:
    """Yield CQL that revokes grants not in the table.

    Args:
        table: The access table.
        present: Current grants: role, resource in the notation of `system_auth`
            (`data/coinmesh/bars_1s`), permission. Roles that aren't in the table are left alone.
    """
    for name, path, permission in sorted(present):
        if name not in table.services:
            continue
        resource = _cql_resource(path)
        if resource is None or (permission, resource) not in _wanted(table, name):
            yield f"REVOKE {permission} ON {resource or _any_resource(path)} FROM {role(name)}"


def removals(table: AccessTable, identities: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield CQL that removes the roles of services that no longer use Cassandra.

    Args:
        table: The access table.
        identities: Content of `system_auth.identity_to_role`: identity and role. Roles without an
            identity of the mesh's trust domain belong to operators and are left alone.
    """
    users = {name for name, entry in table.services.items() if entry.uses_cassandra}
    for identity, name in sorted(identities):
        if not identity.startswith(table.spiffe_id("")) or identity in map(table.spiffe_id, users):
            continue
        # The role first: while its identity is stored, a run after an interruption finds it.
        if name not in users:
            yield f"DROP ROLE IF EXISTS {role(name)}"
        yield f"DROP IDENTITY IF EXISTS '{identity}'"


def apply(session: Any, table: AccessTable) -> list[str]:
    """Apply the table through a superuser's session and return the revoking statements.

    The keyspace and its tables must exist: the migrations come first.
    """
    rows = session.execute("SELECT identity, role FROM system_auth.identity_to_role")
    removed = list(removals(table, [(row.identity, row.role) for row in rows]))
    for statement in (*removed, *statements(table)):
        session.execute(statement)
    rows = session.execute("SELECT role, resource, permissions FROM system_auth.role_permissions")
    present = [
        (row.role, row.resource, permission) for row in rows for permission in row.permissions
    ]
    revoked = list(revocations(table, present))
    for statement in revoked:
        session.execute(statement)
    # This node's cache keeps a role, or its absence, for roles_validity, 2 s; so do other nodes'.
    # Last, because the statements above may have begun to refresh an entry.
    session.execute("TRUNCATE system_views.roles_cache_keys")
    return removed + revoked


def _wanted(table: AccessTable, name: str) -> set[tuple[str, str]]:
    access = table.services[name].cassandra
    found: set[tuple[str, str]] = set()
    for permission, attribute in _GRANTS.items():
        for entry in getattr(access, attribute):
            if entry == "*":
                found.add((permission, f"KEYSPACE {table.keyspace}"))
            else:
                found.add((permission, f"TABLE {table.keyspace}.{entry}"))
    return found


def _cql_resource(path: str) -> str | None:
    parts = path.split("/")
    if parts[0] != "data":
        return None
    match parts[1:]:
        case []:
            return "ALL KEYSPACES"
        case [keyspace]:
            return f"KEYSPACE {keyspace}"
        case [keyspace, name]:
            return f"TABLE {keyspace}.{name}"
        case _:
            return None


def _any_resource(path: str) -> str:
    kind, *rest = path.split("/")
    match kind, rest:
        case "roles", []:
            return "ALL ROLES"
        case "roles", [name]:
            return f"ROLE {role(name)}"
        case "functions", [keyspace, *_]:
            return f"ALL FUNCTIONS IN KEYSPACE {keyspace}"
        case "mbean", [name]:
            return f"MBEAN '{name}'"
        case "mbean", _:
            return "ALL MBEANS"
        case _:
            return "ALL FUNCTIONS"
