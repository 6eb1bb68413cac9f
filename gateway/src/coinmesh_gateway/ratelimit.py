"""The command `coinmesh-ratelimit`: run envoyproxy/ratelimit as a service of the mesh.

The address and credentials of Redis come from the mesh's settings. The program does not reload a
certificate or password for Redis, so it is restarted after a renewal; Envoy lets requests pass
meanwhile.

Its log lines are converted to the mesh's schema here, and its metrics and health on Unix sockets
are served to scrapers under mutual TLS.
"""

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from coinmesh_gateway import quotas
from coinmesh_gateway.catalogue import CatalogueError
from coinmesh_gateway.config import write
from coinmesh_gateway.settings import socket_path
from meshkit import log_lines, logs, metrics
from meshkit.rotation import follow
from meshkit.settings import Address, RedisSettings, SettingsError, load
from meshkit.tls import certificate_files

_log = logging.getLogger(__name__)
KEY_PREFIX = "rl:"
QUOTAS = "quotas"
#: Its sockets in the run directory; `curl --unix-socket` can query the last one too.
HTTP, METRICS, DEBUG = "http.sock", "metrics.sock", "debug.sock"
#: The exposed paths. HTTP would also accept requests to count.
_SHOWN = {"/healthcheck": HTTP, "/metrics": METRICS}


def environment(settings: RedisSettings, grpc: Address, run: Path) -> dict[str, str]:
    """Return the environment of the mesh's build of ratelimit; only gRPC uses a port.

    Everything else is on sockets in `run`.

    Raises:
        CatalogueError: The directory's path is too long for a socket.
    """
    http, numbers, debug = (str(socket_path(run / name)) for name in (HTTP, METRICS, DEBUG))
    redis = urlsplit(settings.redis_url)
    told = {
        "GRPC_HOST": grpc.host,
        "GRPC_PORT": str(grpc.port),
        "HOST": http,
        "DEBUG_HOST": debug,
        "RUNTIME_ROOT": str(run),
        "RUNTIME_SUBDIRECTORY": QUOTAS,
        "RUNTIME_WATCH_ROOT": "false",
        "USE_STATSD": "false",
        "USE_PROMETHEUS": "true",
        "PROMETHEUS_ADDR": numbers,
        "LOG_FORMAT": "json",
        "REDIS_SOCKET_TYPE": "tcp",
        "REDIS_URL": redis.netloc,
        "REDIS_POOL_SIZE": "4",
        "CACHE_KEY_PREFIX": KEY_PREFIX,
        "LIMIT_RESPONSE_HEADERS_ENABLED": "true",
    }
    if credentials := settings.redis_credentials():
        secret = credentials.password.get_secret_value()
        told["REDIS_AUTH"] = f"{credentials.username}:{secret}"
    if settings.tls_dir is not None:
        current = settings.tls_dir / "current"
        told |= {
            "GRPC_SERVER_USE_TLS": "true",
            "GRPC_SERVER_TLS_CERT": str(current / "tls.crt"),
            "GRPC_SERVER_TLS_KEY": str(current / "tls.key"),
            "GRPC_CLIENT_TLS_CACERT": str(current / "ca.crt"),
            "GRPC_CLIENT_TLS_SAN": "envoy",
            "REDIS_TLS": "true",
            "REDIS_TLS_CACERT": str(current / "ca.crt"),
            "REDIS_TLS_CLIENT_CERT": str(current / "tls.crt"),
            "REDIS_TLS_CLIENT_KEY": str(current / "tls.key"),
        }
    return told


def shown(run: Path) -> Callable[[Any, Any], list[bytes]]:
    """Return a WSGI application that serves ratelimit's metrics and health; 503 if unreachable."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        path = environ["PATH_INFO"]
        if path not in _SHOWN:
            start_response("404 Not Found", [])
            return []
        transport = httpx.HTTPTransport(uds=str(run / _SHOWN[path]))
        with httpx.Client(base_url="http://ratelimit", transport=transport) as client:
            try:
                answer = client.get(path)
            except httpx.TransportError:
                start_response("503 Service Unavailable", [])
                return []
        kind = answer.headers["content-type"]
        start_response(f"{answer.status_code} {answer.reason_phrase}", [("Content-Type", kind)])
        return [answer.content]

    return app


async def run(program: str, settings: RedisSettings, tell: Callable[[], dict[str, str]]) -> int:
    """Run the program until a termination signal or its exit; return the exit status.

    Each start uses the environment returned by `tell`.
    """
    stopping, renewed = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    files = certificate_files(settings)

    def version() -> object:
        return files and files.version(), settings.redis_credentials()

    following = asyncio.create_task(follow(version, renewed.set))
    try:
        while True:
            renewed.clear()
            child = await asyncio.create_subprocess_exec(
                program, env={**os.environ, **tell()}, stdout=PIPE, stderr=STDOUT
            )
            assert child.stdout is not None
            passing = asyncio.create_task(_pass_on(child.stdout))
            # `follow` reports the initial version first; discard that.
            await asyncio.sleep(0)
            renewed.clear()
            waits = [asyncio.create_task(step()) for step in (stopping.wait, renewed.wait)]
            ended = asyncio.create_task(child.wait())
            await asyncio.wait([*waits, ended], return_when=asyncio.FIRST_COMPLETED)
            for task in waits:
                task.cancel()
            if ended.done():
                await passing
                return ended.result()
            with suppress(ProcessLookupError):
                child.terminate()
            await ended
            await passing
            if stopping.is_set():
                return 0
            _log.info("the certificate or the password was renewed: starting anew")
    finally:
        following.cancel()


async def _pass_on(output: asyncio.StreamReader) -> None:
    while True:
        try:
            text = await output.readline()
        except ValueError:  # longer than asyncio's limit (64 KiB): skip this line only
            continue
        if not text:
            return
        moment = datetime.now(UTC)
        line = log_lines.normalize(text.decode(errors="replace"), quotas.SERVICE, moment)
        sys.stderr.write(json.dumps(line, ensure_ascii=False) + "\n")
        sys.stderr.flush()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exit status 2 for an invalid setting."""
    parser = argparse.ArgumentParser(
        prog="coinmesh-ratelimit", description="Runs envoyproxy/ratelimit."
    )
    parser.add_argument("--program", required=True, metavar="FILE", help="its binary")
    parser.add_argument(
        "--run", required=True, type=Path, metavar="DIR", help="for its configuration and sockets"
    )
    parser.add_argument("--grpc", required=True, type=Address.parse, metavar="HOST:PORT")
    parser.add_argument(
        "--metrics",
        type=Address.parse,
        metavar="HOST:PORT",
        help="where its numbers and health are shown under mutual TLS",
    )
    given = parser.parse_args(arguments)
    try:
        settings = load(RedisSettings)
        directory = given.run.absolute()
        tell = partial(environment, settings, given.grpc, directory)
        tell()  # reports an invalid setting now
        write(directory / QUOTAS / "config" / "quotas.yaml", quotas.configuration(quotas.shipped()))
        if given.metrics is not None:
            files = certificate_files(settings)
            if files is None:
                raise SettingsError("COINMESH_TLS_DIR: numbers are shown under mutual TLS only")
            metrics.serve(given.metrics, shown(directory), files)
    except (CatalogueError, SettingsError) as error:
        logs.tell(__name__, f"coinmesh-ratelimit: {error}", logging.CRITICAL)
        raise SystemExit(2) from error
    logs.configure(quotas.SERVICE, "INFO")
    raise SystemExit(asyncio.run(run(given.program, settings, tell)))
