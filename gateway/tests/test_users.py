"""Users before a real Envoy, with the tokens of a real OpenBao: who gets in, as whom."""

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import pytest

from coinmesh_access import listener_certificate, users
from coinmesh_access.testing import Server
from coinmesh_access.users import TokenLives
from coinmesh_gateway.users import Vault
from meshkit.authz import ROLES_HEADER, TIER_HEADER, USER_HEADER
from meshkit.cookies import CSRF_COOKIE, CSRF_HEADER, TOKEN_COOKIE

pytestmark = pytest.mark.component

CSRF = "c" * 43
CHANGE = "/v1/collectors/binance:drain"
REFRESH_SECONDS = 6


@dataclass
class Edge:
    """Envoy, OpenBao and what stands behind."""

    envoy: Any
    bao: Server
    issued: int = 0

    @property
    def told(self) -> dict[str, str]:
        """The metadata of the last call about a session."""
        return self.envoy.backends["query-gateway"][0].double.sessions.told

    def token(self, role: str = "viewer", **more: Any) -> str:
        """A new user's token."""
        self.issued += 1
        key = users.add(self.bao.users(), f"user{self.issued}", role, **more)
        return users.exchange(self.bao.vault.client(), key)

    def get(self, token: str | None, path: str = "/v1/session", **more: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return self.envoy.rest.get(path, headers=headers | more.pop("headers", {}), **more)


@pytest.fixture(scope="module")
def edge(
    tmp_path_factory: pytest.TempPathFactory,
    start_envoy: Callable[..., Any],
    start_gateway: Callable[..., Any],
    start_collector: Callable[..., Any],
) -> Iterator[Edge]:
    bao = Server(tmp_path_factory.mktemp("openbao"))
    backends = {"query-gateway": [start_gateway("1")], "collector-binance": [start_collector()]}
    try:
        bao.start()
        bao.setup()
        vault = Vault(bao.vault.address, bao.vault.ca, refresh_seconds=REFRESH_SECONDS)
        yield Edge(start_envoy(backends, vault=vault), bao)
    finally:
        bao.stop()
        for replicas in backends.values():
            replicas[0].stop()


def reason(response: httpx.Response) -> tuple[int, int, str]:
    """HTTP status, code and reason of an error of Envoy's own."""
    body = response.json()
    (info,) = body["details"]
    assert info["domain"] == "envoy.coinmesh"
    return response.status_code, body["code"], info["reason"]


def forged(token: str, **claims: object) -> str:
    """The token with other claims under the same signature."""
    head, body, signature = token.split(".")
    found = json.loads(base64.urlsafe_b64decode(body + "=="))
    changed = base64.urlsafe_b64encode(json.dumps(found | claims).encode()).decode().rstrip("=")
    return f"{head}.{changed}.{signature}"


def test_who_shows_no_token_or_a_wrong_one_is_told_so(edge: Edge) -> None:
    token = edge.token()
    for wrong in (None, "nonsense", forged(token, roles=["admin"]), token[:-4] + "AAAA"):
        for path in ("/v1/session", "/v1/tickers", "/v1/nothing", "/v1/stream?instruments=a"):
            assert reason(edge.get(wrong, path)) == (401, 16, "TOKEN_REQUIRED"), (wrong, path)
    assert "Bearer" in edge.get(None).headers["www-authenticate"]
    assert edge.envoy.rest.get("/healthz").status_code == 200


def test_a_token_names_its_user_to_the_service_and_goes_no_further(edge: Edge) -> None:
    assert edge.get(edge.token("editor", tier="pro")).status_code == 200
    assert edge.told[USER_HEADER] == f"user{edge.issued}"
    assert edge.told[TIER_HEADER] == "pro"
    roles = edge.told[ROLES_HEADER]
    assert json.loads(base64.urlsafe_b64decode(roles + "==")) == ["editor"]
    assert not {"authorization", "cookie"} & set(edge.told)


def test_what_a_client_says_of_itself_is_overwritten(edge: Edge) -> None:
    spoofed = {
        USER_HEADER: "root",
        ROLES_HEADER: base64.urlsafe_b64encode(b'["admin"]').decode(),
        TIER_HEADER: "unlimited",
        "x-coinmesh-anything": "1",
        "x-forwarded-client-cert": "URI=spiffe://coinmesh/svc/envoy",
    }
    assert edge.get(edge.token(), headers=spoofed).status_code == 200
    assert edge.told[USER_HEADER] == f"user{edge.issued}"
    assert edge.told[TIER_HEADER] == "free"
    assert json.loads(base64.urlsafe_b64decode(edge.told[ROLES_HEADER] + "==")) == ["viewer"]
    assert not {"x-coinmesh-anything", "x-forwarded-client-cert"} & set(edge.told)
    # Also where no token is asked for, so that none overwrites it.
    edge.envoy.rest.post("/v1/session", json={}, headers=spoofed)
    assert not {name for name in edge.told if name.startswith(("x-coinmesh", "x-forwarded-cl"))}
    assert edge.get(edge.token(), headers={"x_coinmesh_user": "root"}).status_code == 400


def test_grpc_needs_a_token_too(edge: Edge) -> None:
    with grpc.insecure_channel(str(edge.envoy.address)) as channel:
        for method in (
            "/coinmesh.market.v1.MarketService/ListTickers",
            "/coinmesh.session.v1.SessionService/GetSession",
            "/grpc.health.v1.Health/Check",
        ):
            call = channel.unary_unary(method)
            with pytest.raises(grpc.RpcError) as caught:
                call(b"", timeout=20)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert call(b"", metadata=(("authorization", f"Bearer {edge.token()}"),)) is not None


def test_an_expired_token_or_one_for_somebody_else_is_refused(edge: Edge) -> None:
    admin = edge.bao.admin()
    key = users.add(edge.bao.users(), "brief", "viewer")
    role = f"identity/oidc/role/{users.ROLE}"
    kept = admin.read(role)["data"]
    try:
        admin.write_data(role, data=kept | {"ttl": "1s"})
        brief = users.exchange(edge.bao.vault.client(), key)
        other = kept | {"client_id": "somebody-else"}
        admin.write_data(f"identity/oidc/key/{users.KEY}", data={"allowed_client_ids": ["*"]})
        admin.write_data(role, data=other)
        foreign = users.exchange(edge.bao.vault.client(), key)
    finally:
        admin.write_data(role, data=kept)
        users.ensure_issuer(admin, TokenLives())
    assert reason(edge.get(foreign)) == (403, 7, "TOKEN_NOT_ALLOWED")

    def expired() -> bool:
        return edge.get(brief).status_code == 401

    edge.envoy.wait("the token of a second has expired", expired)
    assert "expired" in edge.get(brief).json()["message"]


def test_keys_may_be_rotated_and_vault_be_away(edge: Edge, eventually: Any) -> None:
    def fetched() -> int:
        return edge.envoy.stat("cluster.vault.upstream_rq_2xx")

    before = edge.token()
    for _ in range(3):
        seen = fetched()
        eventually("Envoy has fetched the keys again", lambda seen=seen: fetched() > seen)
        edge.bao.admin().write_data(f"identity/oidc/key/{users.KEY}/rotate", data={})
        # At once: the key was published before it signed.
        assert edge.get(edge.token()).status_code == 200
        assert edge.get(before).status_code == 200
    failed = edge.envoy.stat("cluster.vault.upstream_cx_connect_fail")
    edge.bao.stop()
    try:
        eventually(
            "fetching has failed for longer than keys are fresh",
            lambda: edge.envoy.stat("cluster.vault.upstream_cx_connect_fail") > failed + 3,
        )
        assert edge.get(before).status_code == 200
    finally:
        edge.bao.start()


def test_changed_ca_of_vault_is_used_without_restart(edge: Edge, eventually: Any) -> None:
    edge.bao.stop()
    try:
        listener_certificate.renew(edge.bao.secrets / "openbao")
    finally:
        edge.bao.start()
    seen = edge.envoy.stat("cluster.vault.upstream_rq_2xx")
    eventually(
        "Envoy fetches the keys from a Vault with another CA",
        lambda: edge.envoy.stat("cluster.vault.upstream_rq_2xx") > seen,
    )


def test_a_browsers_cookie_lets_it_read_and_with_the_csrf_token_also_change(edge: Edge) -> None:
    cookies = f"{TOKEN_COOKIE}={edge.token('admin')}; {CSRF_COOKIE}={CSRF}"
    plain = {"cookie": cookies}
    assert edge.get(None, headers=plain).status_code == 200
    assert "cookie" not in edge.told
    for header in ("", CSRF[:-1], CSRF + "c", "d" * 43):
        refused = edge.envoy.rest.post(CHANGE, json={}, headers=plain | {CSRF_HEADER: header})
        assert reason(refused) == (403, 7, "CSRF_TOKEN_REQUIRED")
    right = plain | {CSRF_HEADER: CSRF}
    assert edge.envoy.rest.post(CHANGE, json={}, headers=right).status_code == 200
    foreign = right | {"origin": "https://evil.example"}
    refused = edge.envoy.rest.post(CHANGE, json={}, headers=foreign)
    assert reason(refused) == (403, 7, "ORIGIN_NOT_ALLOWED")
    with_token = {"authorization": f"Bearer {edge.token('admin')}"}
    assert edge.envoy.rest.post(CHANGE, json={}, headers=with_token).status_code == 200


def test_logging_in_needs_no_token_and_gives_cookies(edge: Edge) -> None:
    for stale in ({}, {"authorization": "Bearer stale"}):
        answer = edge.envoy.rest.post("/v1/session", json={"apiKey": "k"}, headers=stale)
        assert answer.json()["token"] == "t"
        assert answer.headers.get_list("set-cookie") == ["a=1; Secure", "b=2; Secure"]
