"""Logging in, with a real OpenBao: keys become tokens, browsers get cookies and new tokens."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.cookies import Morsel, SimpleCookie
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from coinmesh_access import listener_certificate, users
from coinmesh_access.testing import Server
from coinmesh_audit.log import AuditLog
from coinmesh_contracts.session.v1 import session_service_pb2 as api
from coinmesh_contracts.session.v1.session_service_pb2_grpc import (
    SessionServiceStub,
    add_SessionServiceServicer_to_server,
)
from meshkit.calls import LayeredInterceptor
from meshkit.cookies import CSRF_COOKIE, LOGIN_COOKIE, TOKEN_COOKIE
from meshkit.errors import error_info, error_layer
from query_gateway.sessions import Sessions
from query_gateway.settings import GatewaySettings

pytestmark = pytest.mark.component


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("openbao"))
    try:
        server.start()
        server.setup()
        yield server
    finally:
        server.stop()


@asynccontextmanager
async def serving(address: str | None, ca: Path | None) -> AsyncIterator[Any]:
    """A stub of the service; what it needs of Kafka and the rest isn't there."""
    settings = GatewaySettings.model_construct(vault_addr=address, vault_ca=ca)
    settings_log = AuditLog(settings, source="test")
    sessions = Sessions(settings, settings_log)
    server = grpc.aio.server(interceptors=[LayeredInterceptor([error_layer()])])
    add_SessionServiceServicer_to_server(sessions, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield SessionServiceStub(channel)
    await server.stop(None)
    await sessions.close()


async def create(
    stub: Any, cookies: str = "", **request: Any
) -> tuple[Any, dict[str, Morsel[str]]]:
    """The session and the cookies that came with it."""
    metadata = (("cookie", cookies),) if cookies else ()
    call = stub.CreateSession(api.CreateSessionRequest(**request), metadata=metadata)
    session = await call
    found: SimpleCookie = SimpleCookie()
    for key, value in await call.initial_metadata():
        if key == "set-cookie":
            found.load(value)
    return session, dict(found)


async def refused(stub: Any, cookies: str = "", **request: Any) -> str:
    """The reason for which there is no session."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create(stub, cookies, **request)
    info = error_info(caught.value)
    assert info is not None
    return info.reason


async def test_a_key_becomes_a_token(bao: Server) -> None:
    key = users.add(bao.users(), "ann", "editor", tier="pro")
    async with serving(bao.vault.address, bao.vault.ca) as stub:
        session, cookies = await create(stub, api_key=key)
        assert (session.user, list(session.roles), session.tier) == ("ann", ["editor"], "pro")
        assert session.token.count(".") == 2
        assert not cookies
        assert not session.csrf_token


async def test_a_browser_gets_cookies_and_by_them_new_tokens_until_its_user_is_removed(
    bao: Server,
) -> None:
    admin = bao.users()
    key = users.add(admin, "bob", "viewer")
    async with serving(bao.vault.address, bao.vault.ca) as stub:
        session, cookies = await create(stub, api_key=key, browser=True)
        assert not session.token
        assert cookies[CSRF_COOKIE].value == session.csrf_token
        for name in (TOKEN_COOKIE, LOGIN_COOKIE, CSRF_COOKIE):
            assert cookies[name]["secure"]
            assert cookies[name]["samesite"] == "Strict"
            assert bool(cookies[name]["httponly"]) == (name != CSRF_COOKIE)
        assert cookies[LOGIN_COOKIE]["path"] == "/v1/session"
        assert 0 < int(cookies[TOKEN_COOKIE]["max-age"]) <= users.TokenLives().token
        assert int(cookies[LOGIN_COOKIE]["max-age"]) > users.TokenLives().token

        sent = "; ".join(f"{name}={morsel.value}" for name, morsel in cookies.items())
        again, renewed = await create(stub, sent, browser=True)
        assert (again.user, again.csrf_token) == ("bob", session.csrf_token)
        assert set(renewed) == {TOKEN_COOKIE}
        users.remove(admin, "bob")
        assert await refused(stub, sent, browser=True) == "LOGIN_REFUSED"
        assert await refused(stub, api_key=key) == "LOGIN_REFUSED"

        call = stub.DeleteSession(api.DeleteSessionRequest())
        ended = [value for key, value in await call.initial_metadata() if key == "set-cookie"]
        assert len(ended) == 3
        assert all("Max-Age=0" in value for value in ended)


async def test_a_new_key_ends_the_sessions_made_with_the_one_before(bao: Server) -> None:
    admin = bao.users()
    old, bystander = users.add(admin, "cat", "editor"), users.add(admin, "dan", "viewer")
    async with serving(bao.vault.address, bao.vault.ca) as stub:
        sent: list[str] = []
        for key in (old, bystander):
            _, cookies = await create(stub, api_key=key, browser=True)
            sent.append("; ".join(f"{name}={morsel.value}" for name, morsel in cookies.items()))
        new = users.add(admin, "cat", "viewer", tier="pro")
        assert await refused(stub, sent[0], browser=True) == "LOGIN_REFUSED"
        assert await refused(stub, api_key=old) == "LOGIN_REFUSED"
        assert (await create(stub, sent[1], browser=True))[0].user == "dan"
        session, _ = await create(stub, api_key=new)
        assert (session.user, list(session.roles), session.tier) == ("cat", ["viewer"], "pro")
    assert users.User("cat", "viewer", "pro") in users.listed(admin)


async def test_who_has_no_valid_key_gets_nothing(bao: Server) -> None:
    key = users.add(bao.users(), "eve", "viewer")
    async with serving(bao.vault.address, bao.vault.ca) as stub:
        assert await refused(stub) == "LOGIN_REQUIRED"
        assert await refused(stub, f"{LOGIN_COOKIE}=made-up") == "LOGIN_REFUSED"
        for malformed in ("key", "cm_eve", "cm_../../sys/health_x", "cm_Eve_" + "x" * 300):
            assert await refused(stub, api_key=malformed) == "MALFORMED_API_KEY"
        guesses = (refused(stub, api_key=f"cm_eve_guess{number}") for number in range(10))
        assert set(await asyncio.gather(*guesses)) == {"LOGIN_REFUSED"}
        # Guesses lock nobody out.
        assert (await create(stub, api_key=key))[0].user == "eve"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetSession(api.GetSessionRequest())
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_login_works_after_vaults_ca_changed(bao: Server) -> None:
    key = users.add(bao.users(), "fay", "viewer")
    async with serving(bao.vault.address, bao.vault.ca) as stub:
        await create(stub, api_key=key)
        bao.stop()
        listener_certificate.renew(bao.secrets / "openbao")
        bao.start()
        assert (await create(stub, api_key=key))[0].user == "fay"


async def test_without_vault_nobody_logs_in(bao: Server) -> None:
    async with serving(None, None) as stub:
        # pragma: allowlist nextline secret
        assert await refused(stub, api_key="cm_ann_x") == "NO_VAULT"
    async with serving(f"https://127.0.0.1:{bao.free_port()}", bao.vault.ca) as stub:
        # pragma: allowlist nextline secret
        assert await refused(stub, api_key="cm_ann_x") == "VAULT_UNAVAILABLE"
