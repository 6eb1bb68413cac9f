"""Redis holds to the access table, for every user and command."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from coinmesh_access import (
    credentials,
    redis_users,
    table,
)
from coinmesh_access.credentials import Kind
from coinmesh_local.testing import eventually

pytestmark = pytest.mark.component
TABLE = table.load()
Start = Callable[..., subprocess.Popen[bytes]]
Configured = Callable[[str], dict[str, Any]]


def client_files(root: Path, name: str) -> dict[str, str]:
    current = root / name / "current"
    return {
        "key": str(current / "tls.key"),
        "crt": str(current / "tls.crt"),
        "ca": str(current / "ca.crt"),
    }


@pytest.fixture
def redis_client(bao: Any, tls_root: Path, tmp_path: Path, process: Start) -> Callable[..., Any]:
    own = client_files(tls_root, "redis")
    acl = tmp_path / "users.acl"
    passwords = credentials.redis_passwords(bao.service("deploy"), TABLE)
    acl.write_text(redis_users.acl_file(TABLE, passwords))
    port = bao.free_port()
    process(
        *("redis-server", "--port", 0, "--tls-port", port, "--bind", "127.0.0.1", "--save", ""),
        *("--tls-cert-file", own["crt"], "--tls-key-file", own["key"]),
        *("--tls-ca-cert-file", own["ca"], "--tls-auth-clients", "yes"),
        *("--tls-protocols", "TLSv1.3", "--aclfile", acl),
    )

    def connect(name: str, password: str, certified: bool = True) -> redis.Redis:
        files = client_files(tls_root, name)
        certificate = {"ssl_certfile": files["crt"], "ssl_keyfile": files["key"]}
        return redis.Redis(
            port=port,
            ssl=True,
            ssl_ca_certs=files["ca"],
            username=name,
            password=password,
            **(certificate if certified else {}),
        )

    def answers() -> bool:
        try:
            return bool(connect("deploy", passwords["deploy"][0]).ping())
        except redis.ConnectionError:
            return False

    eventually(answers, "Redis answers")
    return connect


def test_redis_lets_each_user_do_what_the_table_says(redis_client: Any, bao: Any) -> None:
    (password, *_) = credentials.redis_passwords(
        bao.service("query-gateway"),
        TABLE.model_copy(update={"services": {"query-gateway": TABLE.services["query-gateway"]}}),
    )["query-gateway"]
    gateway = redis_client("query-gateway", password)
    gateway.set("cm:a", "1", ex=60)
    assert gateway.get("cm:a") == b"1"
    script = (
        "redis.call('HSET', KEYS[1], 'version', '1'); redis.call('DEL', KEYS[2]); "
        "redis.call('ZADD', KEYS[2], 1, 'x'); redis.call('SET', KEYS[3], '1'); "
        "return redis.call('HGET', KEYS[1], 'version') .. redis.call('EXISTS', KEYS[3])"
    )
    assert gateway.eval(script, 3, "cm:h", "cm:z", "cm:alive") == b"11"
    assert gateway.hget("cm:h", "version") == b"1"
    assert gateway.zrange("cm:z", 0, -1) == [b"x"]
    for refused in (
        lambda: gateway.get("other"),
        lambda: gateway.eval("return redis.call('GET', 'other')", 0),
        lambda: gateway.eval("return redis.call('FLUSHALL')", 0),
        gateway.flushall,
        lambda: gateway.keys("*"),
        lambda: gateway.config_get("*"),
        gateway.acl_list,
        lambda: gateway.publish("x", "y"),
    ):
        with pytest.raises((redis.exceptions.NoPermissionError, redis.ResponseError)):
            refused()


def test_redis_refuses_strangers_and_takes_two_passwords_in_a_rotation(
    redis_client: Any, bao: Any, tmp_path: Path
) -> None:
    admin = bao.admin()
    (old, *_) = credentials.redis_passwords(admin, TABLE)["query-gateway"]
    (deployer, *_) = credentials.redis_passwords(admin, TABLE)["deploy"]
    for name, password in (("query-gateway", "wrong"), ("envoy", old), ("default", old)):
        client = redis_client("query-gateway", password)
        client.connection_pool.connection_kwargs["username"] = name
        with pytest.raises(redis.AuthenticationError):
            client.ping()
    with pytest.raises(redis.ConnectionError):
        redis_client("query-gateway", old, certified=False).ping()
    new = credentials.rotate(admin, "query-gateway", Kind.REDIS)["password"]
    acl = redis_users.acl_file(TABLE, credentials.redis_passwords(admin, TABLE))
    (tmp_path / "users.acl").write_text(acl)
    redis_client("deploy", deployer).acl_load()
    assert redis_client("query-gateway", old).ping()
    assert redis_client("query-gateway", new).ping()


def keyed(admin: Any) -> set[str]:
    """The commands that name keys, in the same place or elsewhere."""
    facts = admin.execute_command("COMMAND")
    return {
        name for name, one in facts.items() if one["first_key_pos"] or "movablekeys" in one["flags"]
    }


def commands(admin: Any) -> Iterator[tuple[str, int]]:
    """Every command of the server, subcommands one by one, and of how many words it is at least."""
    for name, facts in admin.execute_command("COMMAND").items():
        parts = [(one[0].decode(), one[1]) for one in facts["subcommands"]]
        yield from ((each, abs(arity)) for each, arity in parts or [(name, facts["arity"])])


def may(admin: Any, user: str, command: str, count: int, key: str) -> bool:
    """The server's own word, by ACL DRYRUN, on a command with a key wherever one could be."""
    words = command.split("|")
    if command.startswith(("eval", "fcall")):
        words += ["return 1", "1"]
        count = 4
    words += [key] * (count - len(words))
    return admin.execute_command("ACL", "DRYRUN", user, *words) == b"OK"


USERS = [name for name, one in TABLE.services.items() if one.uses_redis and not one.redis.all]


@pytest.mark.parametrize("user", USERS)
def test_redis_decides_on_every_command_and_key_as_the_table_says(
    redis_client: Any, bao: Any, user: str
) -> None:
    passwords = credentials.redis_passwords(bao.service("deploy"), TABLE)
    admin, access = redis_client("deploy", passwords["deploy"][0]), TABLE.services[user].redis
    key = next(iter(access.keys), "*").replace("*", "x")
    found = {each for each, count in commands(admin) if may(admin, user, each, count, key)}
    assert found == {*access.commands, *redis_users.CONNECTION}
    # Nothing but what takes no key is left of it with a key that isn't its own.
    beyond = {each for each, count in commands(admin) if may(admin, user, each, count, "other:x")}
    assert beyond & keyed(admin) == set()
