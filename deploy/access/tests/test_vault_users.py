"""Users in Vault: their API keys and tokens, and what may be done to them."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hvac.exceptions import Forbidden, InvalidRequest

from coinmesh_access import users
from coinmesh_access.users import UserError

pytestmark = pytest.mark.component


def test_who_keeps_users_can_do_nothing_else(bao: Any) -> None:
    client = bao.users()
    users.add(client, "zoe", "viewer")
    for path, data in (
        ("auth/users/users/zoe", {"password": "x", "token_policies": "setup"}),
        ("auth/users/users/zoe", {"password": "x", "token_policies": ["user", "setup"]}),
        ("auth/users/users/zoe", {"password": "x", "policies": "setup"}),
        ("auth/users/users/zoe/policies", {"token_policies": "user,setup"}),
        ("identity/entity/name/zoe", {"policies": ["setup"]}),
        ("identity/group/name/viewer", {"policies": ["setup"]}),
        ("identity/group", {"name": "more", "policies": ["setup"]}),
        ("identity/oidc/key/coinmesh-users/rotate", {}),
        ("auth/approle/role/setup/secret-id", {}),
        ("sys/policies/acl/vault-users", {"policy": ""}),
        ("pki_int/issue/kafka", {}),
        ("transit/keys/audit", {}),
    ):
        with pytest.raises(Forbidden):
            client.write_data(path, data=data)
    for path in ("kv/data/seaweedfs/sse", "auth/approle/role/setup/role-id"):
        with pytest.raises(Forbidden):
            client.read(path)
    with pytest.raises(Forbidden):
        users.add(bao.admin(), "zoe", "admin")
    users.remove(client, "zoe")


def claims(token: str) -> dict[str, Any]:
    body = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))


def test_an_api_key_becomes_a_short_jwt(bao: Any) -> None:
    admin = bao.users()
    key = users.add(admin, "ann", "editor", tier="pro")
    found = claims(users.exchange(bao.vault.client(), key))
    assert (found["name"], found["roles"], found["tier"]) == ("ann", ["editor"], "pro")
    assert found["aud"] == "coinmesh"
    assert found["exp"] - found["iat"] == 900
    assert found["iss"] == f"{bao.vault.address}/v1/identity/oidc"
    promoted = users.add(admin, "ann", "admin")
    assert claims(users.exchange(bao.vault.client(), promoted))["roles"] == ["admin"]
    with pytest.raises(InvalidRequest):
        users.exchange(bao.vault.client(), key)
    users.remove(admin, "ann")
    with pytest.raises(InvalidRequest):
        users.exchange(bao.vault.client(), promoted)


def test_a_jwt_is_signed_by_a_published_key_through_rotations(bao: Any) -> None:
    admin = bao.admin()
    key = users.add(bao.users(), "bob", "viewer")
    token = users.exchange(bao.vault.client(), key)
    admin.write_data("identity/oidc/key/coinmesh-users/rotate", data={})
    later = users.exchange(bao.vault.client(), key)
    keys = bao.vault.client().read("identity/oidc/.well-known/keys")["keys"]
    published = {entry["kid"] for entry in keys}
    kids = set()
    for text in (token, later):
        head = text.split(".")[0]
        kids.add(json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))["kid"])
    assert len(kids) == 2
    assert kids <= published


@pytest.mark.parametrize("key", ["", "cm_ann", "ann_secret", "cm_../x_secret"])
def test_what_is_no_api_key_is_refused(bao: Any, key: str) -> None:
    with pytest.raises(UserError):
        users.exchange(bao.vault.client(), key)


def test_users_have_a_role_that_exists(bao: Any) -> None:
    with pytest.raises(UserError, match="viewer, editor, admin"):
        users.add(bao.users(), "eve", "root")


def test_users_added_at_once_keep_their_roles(bao: Any) -> None:
    names = [f"at-once-{number}" for number in range(12)]
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: users.add(bao.users(), name, "editor"), names))
    roles = {user.name: user.role for user in users.listed(bao.users())}
    assert [roles[name] for name in names] == ["editor"] * len(names)
