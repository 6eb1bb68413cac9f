"""Quotas: Envoy asks a real ratelimit, which counts in a real Redis, all under mutual TLS."""

import stat
from typing import Any

import httpx
import pytest
from hvac.exceptions import VaultError

from coinmesh_access import users
from coinmesh_access.login import USERS
from coinmesh_gateway import ratelimit
from coinmesh_gateway.quotas import Quota, Quotas, configuration, shipped
from coinmesh_local import local_user
from coinmesh_local.testing import TestMesh, eventually

FEW = Quota(requests=3, unit="hour")


def test_every_tier_has_its_limit_and_an_unknown_one_the_defaults() -> None:
    counted, logins = configuration(shipped())["descriptors"]
    (user,) = counted["descriptors"]
    limits = {each.get("value"): each["rate_limit"] for each in user["descriptors"]}
    assert set(limits) == {*shipped().tiers, None}
    assert limits[None] == limits[shipped().default] == user["rate_limit"]
    assert logins["descriptors"][0]["key"] == "remote_address"


@pytest.mark.parametrize("tiers", [{"gold": FEW}, {"free": FEW, "unlimited": FEW}])
def test_quotas_that_contradict_themselves_are_refused(tiers: dict[str, Quota]) -> None:
    with pytest.raises(ValueError, match="default must be one of the tiers"):
        Quotas(default="free", tiers=tiers, logins=FEW)


@pytest.fixture(scope="module")
def closed(mesh: TestMesh) -> TestMesh:
    """The mesh's own Envoy, ratelimit and Redis."""
    mesh.require("envoy", "ratelimit")
    return mesh


def client(mesh: TestMesh, name: str, tier: str) -> httpx.Client:
    """The public listener as a new user of a tier."""
    place = local_user.vault(mesh.mesh)
    key = users.add(place.login(mesh.home.secrets, USERS), name, "viewer", tier=tier)
    token = users.exchange(place.client(), key)
    rest = mesh.rest()
    rest.auth = None
    rest.headers["authorization"] = f"Bearer {token}"
    return rest


def until_refused(ask: Any, most: int) -> httpx.Response:
    """The first reply that is a 429; a window may begin anew on the way."""
    for _ in range(2 * most + 2):
        reply = ask()
        if reply.status_code == 429:
            return reply
    raise AssertionError(f"{2 * most + 2} requests and none refused: {reply.headers}")


@pytest.mark.component
def test_a_user_has_the_tiers_quota_and_no_other_pays_for_it(closed: TestMesh) -> None:
    quota = shipped().tiers["free"]
    ann, bob = client(closed, "quota-ann", "free"), client(closed, "quota-bob", "free")
    eventually(
        lambda: "ratelimit-limit" in ann.get("/v1/session").headers, "Envoy's requests are counted"
    )
    first = ann.get("/v1/session")
    assert first.headers["ratelimit-limit"].startswith(str(quota.requests))
    second = ann.get("/v1/session")
    assert 0 <= int(second.headers["ratelimit-reset"]) <= 60
    refused = until_refused(lambda: ann.get("/v1/session"), quota.requests)
    assert refused.headers["ratelimit-remaining"] == "0"
    body = refused.json()
    assert (body["code"], body["details"][0]["reason"]) == (8, "TOO_MANY_REQUESTS")
    assert bob.get("/v1/session").status_code == 200
    pro = client(closed, "quota-eve", "pro").get("/v1/session")
    assert pro.headers["ratelimit-limit"].startswith(str(shipped().tiers["pro"].requests))
    unlimited = client(closed, "quota-op", "unlimited").get("/v1/session")
    assert "ratelimit-limit" not in unlimited.headers


@pytest.mark.component
def test_guessing_keys_is_slowed_down(closed: TestMesh) -> None:
    rest = closed.rest()
    rest.auth = None
    guess = {"apiKey": "cm_nobody_guess"}  # pragma: allowlist secret
    until_refused(lambda: rest.post("/v1/session", json=guess), shipped().logins.requests)


@pytest.mark.component
def test_ratelimit_shows_itself_to_those_who_scrape_alone(closed: TestMesh) -> None:
    sockets = (closed.home.run / "ratelimit").glob("*.sock")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in sockets}
    assert modes == dict.fromkeys((ratelimit.HTTP, ratelimit.METRICS, ratelimit.DEBUG), 0o600)
    url = f"https://127.0.0.1:{closed.mesh.ports['ratelimit']['metrics'][0]}"

    def answer(identity: str, path: str) -> httpx.Response:
        return httpx.get(f"{url}{path}", verify=closed.tls(identity))

    assert "go_goroutines" in answer("prometheus", "/metrics").text
    assert answer("collector-binance", "/metrics").status_code == 403
    assert answer("prometheus", "/json").status_code == 404


@pytest.mark.component
def test_without_ratelimit_requests_pass_and_are_told_of(closed: TestMesh) -> None:
    ann = client(closed, "quota-ann", "free")
    closed.component("ratelimit").stop()
    try:
        assert ann.get("/v1/session").status_code == 200
        transport = httpx.HTTPTransport(uds=str(closed.home.run / "envoy" / "admin.sock"))
        with httpx.Client(base_url="http://envoy", transport=transport) as admin:
            shown = admin.get("/stats", params={"filter": "ratelimit.error"}).text
        assert any(int(line.rpartition(": ")[2]) for line in shown.splitlines())
    finally:
        closed.component("ratelimit").start()


@pytest.mark.component
def test_a_key_taken_away_is_taken_away(closed: TestMesh) -> None:
    place = local_user.vault(closed.mesh)
    admin = place.login(closed.home.secrets, USERS)
    key = users.add(admin, "quota-gone", "viewer")
    assert "quota-gone" in {user.name for user in users.listed(admin)}
    users.remove(admin, "quota-gone")
    assert "quota-gone" not in {user.name for user in users.listed(admin)}
    with pytest.raises(VaultError):
        users.exchange(place.client(), key)
