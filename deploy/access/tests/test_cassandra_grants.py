"""Cassandra holds to the access table, for every role and table."""

import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from cassandra import InvalidRequest, Unauthorized
from cassandra.cluster import Session

from coinmesh_access import (
    cassandra_roles,
    cassandra_session,
    table,
)
from coinmesh_access.table import AccessError
from coinmesh_local.testing import TestMesh
from coinmesh_manifests.grants import CassandraAccess

pytestmark = pytest.mark.component
TABLE = table.load()
#: What is granted to the deployer alone.
BEYOND = (
    f"CREATE TABLE {TABLE.keyspace}.extra (a int PRIMARY KEY)",
    "CREATE KEYSPACE extra WITH replication = {{'class': 'LocalStrategy'}}",
    f"CREATE INDEX extra ON {TABLE.keyspace}.trades (price)",
    "CREATE ROLE extra",
    'ALTER ROLE "{name}" WITH SUPERUSER = true',
    f'GRANT ALL ON KEYSPACE {TABLE.keyspace} TO "{{name}}"',
    "SELECT * FROM system_auth.roles",
    "SELECT * FROM system_auth.role_permissions",
    "INSERT INTO system_auth.roles (role, is_superuser) VALUES ('{name}', true)",
    "ADD IDENTITY 'spiffe://coinmesh/svc/intruder' TO ROLE '{name}'",
)
Start = Callable[..., subprocess.Popen[bytes]]
Configured = Callable[[str], dict[str, Any]]


def test_cassandra_holds_to_the_table(mesh: TestMesh) -> None:
    mesh.require("cassandra-access")
    cassandra, tls_root = mesh.endpoints["cassandra"], mesh.home.tls
    insert = "INSERT INTO coinmesh.trades (instrument, bucket, shard, event_time, trade_id) "
    insert += "VALUES ('a', 0, 0, 0, 1)"
    select = "SELECT trade_id FROM coinmesh.trades"
    with cassandra_session.connect(cassandra, tls_root / "tick-writer") as writer:
        writer.execute(insert)
        with pytest.raises(Unauthorized):
            writer.execute(select)
    with cassandra_session.connect(cassandra, tls_root / "query-gateway") as gateway:
        assert 1 in {row.trade_id for row in gateway.execute(select)}
        with pytest.raises(Unauthorized):
            gateway.execute(insert)
    with (
        pytest.raises(AccessError),
        cassandra_session.connect(
            cassandra, tls_root / "envoy", password=("cassandra", "cassandra")
        ),
    ):
        pass
    with cassandra_session.connect(cassandra, tls_root / "deploy") as session:
        session.execute('GRANT MODIFY ON TABLE coinmesh.trades TO "query-gateway"')
        assert cassandra_roles.apply(session, TABLE) == [
            'REVOKE MODIFY ON TABLE coinmesh.trades FROM "query-gateway"'
        ]


def test_each_role_may_do_with_each_table_what_the_access_table_says(mesh: TestMesh) -> None:
    """Real statements; what isn't refused fails for want of a key, and changes nothing."""
    mesh.require("cassandra-access", "migrations")
    with cassandra_session.connect(
        mesh.endpoints["cassandra"], mesh.home.tls / "deploy"
    ) as session:
        rows = session.execute(
            "SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s",
            [TABLE.keyspace],
        )
        tables = sorted(row.table_name for row in rows)
    assert "bars_1m" in tables
    for name, service in TABLE.services.items():
        access = service.cassandra
        if access.admin or not service.uses_cassandra:
            continue
        with cassandra_session.connect(
            mesh.endpoints["cassandra"], mesh.home.tls / name
        ) as session:
            for each in tables:
                where = f"{TABLE.keyspace}.{each}"
                for statement, granted in (
                    (f"SELECT * FROM {where} LIMIT 1", access.select),
                    (f"INSERT INTO {where} JSON '{{}}'", access.modify),
                    (f"ALTER TABLE {where} WITH comment = ''", ()),
                    (f"DROP TABLE {where}", ()),
                ):
                    told = f"{name}: {statement}"
                    assert may(session, statement) == (each in granted or "*" in granted), told
                if each not in access.modify:
                    assert not may(session, f"TRUNCATE {where}"), name
            for statement in BEYOND:
                assert not may(session, statement.format(name=name)), f"{name}: {statement}"


@pytest.mark.parametrize("name", [n for n, one in TABLE.services.items() if not one.uses_cassandra])
def test_who_has_no_business_in_cassandra_cannot_log_in(mesh: TestMesh, name: str) -> None:
    mesh.require("cassandra-access")
    with (
        pytest.raises(AccessError),
        cassandra_session.connect(mesh.endpoints["cassandra"], mesh.home.tls / name),
    ):
        pass


@pytest.mark.parametrize("remaining", [True, False])
def test_deprovisioned_administrator_loses_role_and_login(mesh: TestMesh, remaining: bool) -> None:
    mesh.require("cassandra-access")
    cassandra, tls_root = mesh.endpoints["cassandra"], mesh.home.tls
    services = dict(TABLE.services)
    entry = services["prometheus"]
    assert not entry.uses_cassandra
    administrator = entry.model_copy(update={"cassandra": CassandraAccess(admin=True)})
    promoted = TABLE.model_copy(update={"services": services | {"prometheus": administrator}})
    if not remaining:
        del services["prometheus"]
    demoted = TABLE.model_copy(update={"services": services})
    with cassandra_session.connect(cassandra, tls_root / "deploy") as session:
        cassandra_roles.apply(session, promoted)
        with cassandra_session.connect(cassandra, tls_root / "prometheus") as former:
            former.execute("SELECT role FROM system_auth.roles")
        assert 'DROP ROLE IF EXISTS "prometheus"' in cassandra_roles.apply(session, demoted)
        roles = {row.role for row in session.execute("SELECT role FROM system_auth.roles")}
        identities = session.execute("SELECT identity FROM system_auth.identity_to_role")
        assert "prometheus" not in roles
        assert TABLE.spiffe_id("prometheus") not in {row.identity for row in identities}
        assert cassandra_roles.apply(session, demoted) == []
    with (
        pytest.raises(AccessError),
        cassandra_session.connect(cassandra, tls_root / "prometheus"),
    ):
        pass


def may(session: Session, statement: str) -> bool:
    """Whether it is authorized, whatever else becomes of it."""
    try:
        session.execute(statement, timeout=60)
    except Unauthorized:
        return False
    except InvalidRequest:
        pass  # a row without its key
    return True
