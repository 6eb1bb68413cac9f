"""The access table and what is generated from it, without any server."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coinmesh_access import (
    cassandra_roles,
    kafka_acls,
    kafka_principals,
    redis_users,
    s3_identities,
    table,
)
from coinmesh_access.digests import digests
from coinmesh_access.kafka_acls import Acl
from coinmesh_access.table import AccessError, AccessTable
from coinmesh_access.vault_policies import policy
from coinmesh_contracts import topics
from coinmesh_local.paths import CHECKOUT
from coinmesh_local.steps.topics import REGISTRY

TABLE = table.load()


def small(**services: dict[str, object]) -> AccessTable:
    given_services = {name: {"description": "a service", **what} for name, what in services.items()}
    return AccessTable.model_validate(
        {
            "trust_domain": "coinmesh",
            "keyspace": "coinmesh",
            "bucket": "coinmesh",
            "services": given_services,
        }
    )


def test_component_topics_are_those_that_are_created() -> None:
    assert set(TABLE.component_topics) == {topic.name for topic in REGISTRY}


def test_each_topic_with_a_contract_can_be_archived() -> None:
    contracts = {topic.name for topic in topics.ARCHIVED if topic.message is not None}
    assert contracts <= set(TABLE.services["spark-stream"].kafka.read)


def test_cassandra_tables_are_those_of_the_migrations() -> None:
    migrations = (CHECKOUT / "deploy" / "cassandra" / "migrations").glob("*.cql")
    text = "\n".join(path.read_text() for path in migrations)
    made = set(re.findall(r"CREATE TABLE IF NOT EXISTS (\w+)", text))
    for name, entry in TABLE.services.items():
        named = {*entry.cassandra.select, *entry.cassandra.modify} - {"*"}
        assert named <= made, name


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('kafka.read = ["market.trade.v1"]', "no topic 'market.trade.v1'"),
        ('redis.keys = ["cm:*"]', "needs redis.commands"),
        ('s3.read = ["raw"]', "must end in /"),
        ('kafka.wirte = ["market.trades.v1"]', "wirte"),
        ('http.a = ["GET"]', "expected METHOD|METHOD /PATH"),
        ('http.a = ["GET /("]', "unterminated subpattern"),
        ('http.b = ["GET /"]', "no such service"),
        ('kafka.super = true\nkafka.groups = ["x"]', "needs no topics"),
    ],
)
def test_a_wrong_entry_is_told(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "access.toml"
    path.write_text(
        'trust_domain = "m"\nkeyspace = "k"\nbucket = "bucket"\n'
        f'[services.a]\ndescription = "d"\n{text}\n'
    )
    with pytest.raises(AccessError, match=re.escape(told)) as error:
        table.load(path)
    assert str(path) in str(error.value)


def test_an_unknown_service_is_told_with_those_there_are() -> None:
    with pytest.raises(AccessError, match="collector-binance"):
        TABLE.service("colector")


def test_kafka_acls_of_a_writer() -> None:
    wanted = small(
        a={"kafka": {"write": ["market.trades.v1"], "read": ["market.*"], "groups": ["a-*"]}}
    )
    assert kafka_acls.acls(wanted) == [
        Acl("a", "group", "a-", True, "READ"),
        Acl("a", "topic", "market.", True, "READ"),
        Acl("a", "topic", "market.trades.v1", False, "WRITE"),
    ]


def test_super_users_get_no_acls() -> None:
    assert kafka_principals.super_users(TABLE) == "User:deploy;User:kafka"
    assert not {"deploy", "kafka"} & {acl.service for acl in kafka_acls.acls(TABLE)}


def test_who_reads_grants_at_its_start_is_started_again_when_they_change() -> None:
    before = small(registry={}, a={"redis": {"commands": ["get"]}})
    more = {"http": {"registry": ["GET /"]}, "kafka": {"read": ["market.trades.v1"]}}
    after = small(registry={}, a={"redis": {"commands": ["get"]}}, b=more)
    old, new = digests(before), digests(after)
    changed = {part for part in new if old.get(part) != new[part]}
    assert changed == {"identities", "http.registry"}


topic_names = st.lists(st.sampled_from(sorted(topics.BY_NAME)), unique=True)


@given(topic_names, topic_names)
def test_a_change_makes_present_acls_those_wanted(wanted: list[str], present: list[str]) -> None:
    goal = kafka_acls.acls(small(a={"kafka": {"write": wanted}}))
    now = [acl.binding() for acl in kafka_acls.acls(small(a={"kafka": {"write": present}}))]
    change = kafka_acls.change(goal, now)
    after = (set(now) - set(change.delete)) | set(change.create)
    assert after == {acl.binding() for acl in goal}
    assert not set(change.create) & set(now)


def test_cassandra_gives_a_role_its_identity_and_no_more() -> None:
    text = list(cassandra_roles.statements(small(a={"cassandra": {"select": ["bars_1m"]}}, b={})))
    assert text == [
        'CREATE ROLE IF NOT EXISTS "a" WITH SUPERUSER = false AND LOGIN = true',
        'ALTER ROLE "a" WITH SUPERUSER = false AND LOGIN = true',
        "ADD IDENTITY IF NOT EXISTS 'spiffe://coinmesh/svc/a' TO ROLE 'a'",
        'GRANT SELECT ON TABLE coinmesh.bars_1m TO "a"',
    ]


def test_cassandra_takes_back_what_left_the_table() -> None:
    wanted = small(a={"cassandra": {"select": ["bars_1m"]}})
    present = [
        ("a", "data/coinmesh/bars_1m", "SELECT"),
        ("a", "data/coinmesh/bars_1m", "MODIFY"),
        ("a", "data", "CREATE"),
        ("a", "roles", "ALTER"),
        ("cassandra", "data", "ALTER"),
    ]
    assert list(cassandra_roles.revocations(wanted, present)) == [
        'REVOKE CREATE ON ALL KEYSPACES FROM "a"',
        'REVOKE MODIFY ON TABLE coinmesh.bars_1m FROM "a"',
        'REVOKE ALTER ON ALL ROLES FROM "a"',
    ]


def test_redis_users_hold_hashes_of_all_valid_passwords_only() -> None:
    wanted = small(a={"redis": {"commands": ["get"], "keys": ["cm:*"]}}, b={})
    text = redis_users.acl_file(wanted, {"a": ["new-password", "old-password"]})
    assert "password" not in text
    assert text.count("#") == 2
    assert text.startswith("user default off ")
    assert " ~cm:* " in text
    assert text.rstrip().endswith("+get")


def test_missing_credentials_are_told() -> None:
    wanted = small(a={"redis": {"commands": ["get"], "keys": ["cm:*"]}, "s3": {"read": ["raw/"]}})
    with pytest.raises(AccessError, match="coinmesh-vault setup"):
        redis_users.acl_file(wanted, {})
    with pytest.raises(AccessError, match="coinmesh-vault setup"):
        s3_identities.identities(wanted, {})


def test_s3_actions_stop_at_the_prefix() -> None:
    wanted = small(a={"s3": {"read": ["raw/"], "write": ["curated/"]}})
    assert s3_identities.actions(wanted, "a") == [
        "Read:coinmesh/raw/*",
        "List:coinmesh/raw/*",
        "Write:coinmesh/curated/*",
    ]


def test_a_policy_names_nobody_elses_paths() -> None:
    for name in TABLE.services:
        signing = re.findall(r"pki_int/sign/([^\"]+)", policy(TABLE, name))
        assert signing == [name]
