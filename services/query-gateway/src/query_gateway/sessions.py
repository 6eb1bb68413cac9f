"""SessionService: exchanges API keys for JWTs issued by Vault, which Envoy validates.

A user's key is the password of a Vault login, which can only obtain JWTs. A browser stores both the
login and the JWT in cookies that its scripts can't read, so that the key is entered once a day and
a JWT is valid for minutes. This service is stateless.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
from typing import Any, Final, cast

import grpc.aio
import httpx

from coinmesh_audit.log import ALLOWED, DENIED, FAILED, AuditLog
from coinmesh_contracts.events.v1.audit_event_pb2 import AUDIT_ACTION_LOGIN, AuditOutcome
from coinmesh_contracts.session.v1 import session_service_pb2 as api
from coinmesh_contracts.session.v1.session_service_pb2_grpc import (
    SessionServiceServicer,
    add_SessionServiceServicer_to_server,
)
from meshkit import cookies
from meshkit.authz import user
from meshkit.errors import InvalidArgument, MeshError, Unauthenticated, Unavailable
from meshkit.resources import Resource
from meshkit.tls import FollowingContext
from query_gateway.settings import GatewaySettings

add_session_service = add_SessionServiceServicer_to_server
Context = grpc.aio.ServicerContext[Any, Any]
_KEY: Final = re.compile(r"cm_([a-z][a-z0-9.-]*)_([A-Za-z0-9_-]{1,100})")
_TIMEOUT_SECONDS: Final = 10.0
_REFUSED: Final = frozenset({400, 401, 403, 404})


class Sessions(SessionServiceServicer, Resource):
    """Exchanges keys and logins at Vault."""

    def __init__(self, settings: GatewaySettings, log: AuditLog) -> None:
        self._log = log
        self._client: httpx.AsyncClient | None = None
        if settings.vault_addr is not None:
            ca = settings.vault_ca
            self._client = httpx.AsyncClient(
                base_url=f"{settings.vault_addr}/v1",
                verify=FollowingContext(ca) if ca else True,
                timeout=_TIMEOUT_SECONDS,
            )

    async def CreateSession(  # noqa: N802
        self, request: api.CreateSessionRequest, context: Context
    ) -> api.Session:
        """Return a JWT for an API key, or for a browser's login."""
        if request.api_key:
            login, seconds = await self._login(request.api_key)
        else:
            login, seconds = _cookie(context, cookies.LOGIN_COOKIE), None
        token = await self._token(login)
        session = _described(token)
        if not request.browser:
            session.token = token
            return session
        lives = session.expire_time.seconds - _claims(token)["iat"]
        made = [cookies.cookie(cookies.TOKEN_COOKIE, token, lives)]
        if seconds is None:
            session.csrf_token = _cookie(context, cookies.CSRF_COOKIE)
        else:
            session.csrf_token = secrets.token_urlsafe(32)
            made.append(cookies.cookie(cookies.LOGIN_COOKIE, login, seconds))
            made.append(
                cookies.cookie(cookies.CSRF_COOKIE, session.csrf_token, seconds, readable=True)
            )
        await _set(context, made)
        return session

    async def GetSession(  # noqa: N802
        self, request: api.GetSessionRequest, context: Context
    ) -> api.Session:
        """Return the user that Envoy authenticated."""
        found = user(context)
        if found is None:
            raise Unauthenticated("NO_USER", "nobody came in by the public listener")
        return api.Session(user=found.name, roles=found.roles, tier=found.tier)

    async def DeleteSession(  # noqa: N802
        self, request: api.DeleteSessionRequest, context: Context
    ) -> api.DeleteSessionResponse:
        """Delete all cookies of the session."""
        names = (cookies.TOKEN_COOKIE, cookies.LOGIN_COOKIE, cookies.CSRF_COOKIE)
        await _set(context, [cookies.cookie(name, "", 0) for name in names])
        return api.DeleteSessionResponse()

    async def close(self) -> None:
        """Close the connections to Vault."""
        if self._client is not None:
            await self._client.aclose()

    async def _login(self, key: str) -> tuple[str, int]:
        match = _KEY.fullmatch(key)
        if match is None:
            raise InvalidArgument(
                "MALFORMED_API_KEY", "an API key looks like cm_<user>_<secret>", field="api_key"
            )
        path = f"auth/users/login/{match[1]}"
        try:
            answer = await self._ask("POST", path, "the API key", json={"password": match[2]})
        except MeshError as error:
            outcome = DENIED if isinstance(error, Unauthenticated) else FAILED
            self._told(match[1], outcome, error.reason)
            raise
        self._told(match[1], ALLOWED, "")
        return str(answer["auth"]["client_token"]), int(answer["auth"]["lease_duration"])

    def _told(self, name: str, outcome: AuditOutcome.ValueType, why: str) -> None:
        # Not awaited: a Kafka outage must not keep users from logging in.
        self._log.note(
            AUDIT_ACTION_LOGIN, outcome, actor=f"user:{name[:100]}", object="session", detail=why
        )

    async def _token(self, login: str) -> str:
        headers = {"X-Vault-Token": login}
        path = "identity/oidc/token/users"
        answer = await self._ask("GET", path, "the login", headers=headers)
        return str(answer["data"]["token"])

    async def _ask(self, method: str, path: str, what: str, **more: Any) -> dict[str, Any]:
        if self._client is None:
            raise Unavailable(
                "NO_VAULT", "nobody can log in: COINMESH_VAULT_ADDR says where Vault is"
            )
        try:
            answer = await self._client.request(method, path, **more)
        except httpx.HTTPError as error:
            raise Unavailable(
                "VAULT_UNAVAILABLE", "Vault doesn't answer; try again", retry_after_seconds=5
            ) from error
        if answer.status_code in _REFUSED:
            raise Unauthenticated("LOGIN_REFUSED", f"{what} isn't valid, or not any more")
        if not answer.is_success:
            raise Unavailable(
                "VAULT_UNAVAILABLE",
                f"Vault answers {answer.status_code}; try again",
                retry_after_seconds=5,
            )
        return answer.json()


def _cookie(context: Context, name: str) -> str:
    for key, value in cast(Any, context.invocation_metadata() or ()):
        if key == "cookie" and (found := cookies.read(value, name)):
            return found
    raise Unauthenticated("LOGIN_REQUIRED", "log in: POST /v1/session with an API key", cookie=name)


def _described(token: str) -> api.Session:
    """Return the session of a token; its signature isn't checked because it comes from Vault."""
    claims = _claims(token)
    session = api.Session(user=claims["name"], roles=claims["roles"], tier=claims["tier"] or "")
    session.expire_time.FromSeconds(claims["exp"])
    return session


def _claims(token: str) -> dict[str, Any]:
    body = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))


async def _set(context: Context, made: list[str]) -> None:
    metadata = cast(Any, tuple(("set-cookie", cookie) for cookie in made))
    await context.send_initial_metadata(metadata)
