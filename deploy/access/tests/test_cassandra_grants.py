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

pytestmark = pytest.mark.component
TABLE = table.load()
Start = Callable[..., subprocess.Popen[bytes]]
Configured = Callable[[str], dict[str, Any]]


def test_cassandra_holds_to_the_table(mesh: TestMesh) -> None:
    mesh.require("cassandra-access")
    cassandra, tls_root = mesh.endpoints["cassandra"], mesh.home.tls
    insert = "INSERT INTO coinmesh.trades (instrument, bucket, shard, event_time, trade_id) "
    insert += "VALUES ('a', 0, 0, 0, 1)"
    select = "SELECT trade_id FROM coinmesh.trades"
    with cassandra_session.connect(cassandra, tls_root / "spark-stream") as spark:
        spark.execute(insert)
        for refused in (select, "CREATE ROLE x", "DROP TABLE coinmesh.bars_1m"):
            with pytest.raises(Unauthorized):
                spark.execute(refused)
    with cassandra_session.connect(cassandra, tls_root / "query-gateway") as gateway:
        assert 1 in {row.trade_id for row in gateway.execute(select)}
        for refused in (
            insert,
            "DROP TABLE coinmesh.trades",
            "SELECT * FROM system_auth.roles",
            'GRANT MODIFY ON TABLE coinmesh.trades TO "query-gateway"',
        ):
            with pytest.raises(Unauthorized):
                gateway.execute(refused)
    for stranger in ("envoy", "collector-binance"):
        with (
            pytest.raises(AccessError),
            cassandra_session.connect(cassandra, tls_root / stranger),
        ):
            pass
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


def may(session: Session, statement: str) -> bool:
    """Whether it is authorized, whatever else becomes of it."""
    try:
        session.execute(statement, timeout=60)
    except Unauthorized:
        return False
    except InvalidRequest:
        pass  # a row without its key
    return True
