"""The peer: FastAPI + orjson as an equivalent of ViewBars, with the same Cassandra and Redis.

Written by hand for speed: no response model, prepared statements, the driver's callbacks bridged to
the event loop, one GET in Redis when the chart is cached.
"""

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from cassandra.auth import Authenticator, AuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
from cassandra.query import tuple_factory
from fastapi import FastAPI, HTTPException, Response
from redis.asyncio import Redis

MINUTE_MS, DAY_MS = 60_000, 86_400_000
COLUMNS = "open, high, low, close, volume, final".split(", ")
QUERY = (
    f"SELECT to_unix_timestamp(start_time), {', '.join(f'bar.{name}' for name in COLUMNS)} "
    "FROM bars_1m WHERE instrument = ? AND bucket = ? AND start_time < ? "
    "ORDER BY start_time DESC LIMIT ?"
)


class Certified(Authenticator, AuthProvider):
    """Authenticate by certificate."""

    def new_authenticator(self, host: Any) -> "Certified":
        return self

    def initial_response(self) -> bytes:
        return b""


class State:
    """Shared state of the requests."""

    redis: Redis
    session: Any
    query: Any


state = State()


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Connect to Cassandra and Redis."""
    current = f"{os.environ['COINMESH_TLS_DIR']}/current"
    tls = ssl.create_default_context(cafile=f"{current}/ca.crt")
    tls.load_cert_chain(f"{current}/tls.crt", f"{current}/tls.key")
    host, port = os.environ["COINMESH_CASSANDRA_CONTACT_POINTS"].split(":")
    profile = ExecutionProfile(row_factory=tuple_factory, request_timeout=3)
    cluster = Cluster(
        [host],
        port=int(port),
        protocol_version=5,
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
        ssl_context=tls,
        auth_provider=Certified(),
    )
    state.session = await asyncio.to_thread(cluster.connect, "coinmesh")
    state.query = state.session.prepare(QUERY)
    state.redis = Redis.from_url(
        os.environ["COINMESH_REDIS_URL"],
        ssl_ca_certs=f"{current}/ca.crt",
        ssl_certfile=f"{current}/tls.crt",
        ssl_keyfile=f"{current}/tls.key",
        **_credentials(),
    )
    yield
    cluster.shutdown()


def _credentials() -> dict[str, str]:
    return json.loads(Path(os.environ["COINMESH_REDIS_CREDENTIALS_FILE"]).read_text())


app = FastAPI(lifespan=lifespan)


async def fetch(*arguments: Any) -> list[tuple[Any, ...]]:
    """Return the rows of one partition."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()
    future = state.session.execute_async(state.query, arguments)
    future.add_callbacks(
        lambda rows: loop.call_soon_threadsafe(done.set_result, rows),
        lambda error: loop.call_soon_threadsafe(done.set_exception, error),
    )
    return await done


@app.get("/peer/v1/instruments/{instrument}/bars:view")
async def view(
    instrument: str, interval: str = "1m", end_time: datetime | None = None, limit: int = 500
) -> Response:
    """Return a chart's bars."""
    if interval != "1m" or not 0 < limit <= 5000:
        raise HTTPException(400)
    end = int((end_time or datetime.now(UTC)).timestamp() * 1000)
    key = f"cm:peer:chart:{instrument}:{interval}:{end_time}:{limit}"
    data = await state.redis.get(key)
    if data is None:
        rows: list[tuple[Any, ...]] = []
        bucket = (end - 1) // DAY_MS * DAY_MS
        for _ in range(2):
            rows += await fetch(instrument, bucket, end, limit - len(rows))
            if len(rows) == limit:
                break
            bucket -= DAY_MS
        rows.reverse()
        starts, *prices, final = zip(*rows, strict=True)
        texts = [[format(value, "f") for value in column] for column in prices]
        opened, high, low, close, volume = texts
        data = orjson.dumps(
            {
                "instrument": instrument,
                "interval": interval,
                "startTime": starts,
                "open": opened,
                "high": high,
                "low": low,
                "close": close,
                "volume": volume,
                "final": final,
            }
        )
        await state.redis.set(key, data, ex=10)
    return Response(data, media_type="application/json")
