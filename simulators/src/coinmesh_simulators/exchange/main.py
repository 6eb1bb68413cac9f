"""`coinmesh-sim-exchange`: settings in, objects wired, served until a signal comes."""

import asyncio
import logging
import signal
import sqlite3
import ssl
import sys

import uvloop
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from coinmesh_simulators.exchange.admin import AdminApi
from coinmesh_simulators.exchange.exchange import Exchange
from coinmesh_simulators.exchange.limits import Limits
from coinmesh_simulators.exchange.rest import RestApi
from coinmesh_simulators.exchange.settings import SimulatorSettings, split_address
from coinmesh_simulators.exchange.store import StateError
from coinmesh_simulators.exchange.websockets import WebSocketServer
from meshkit import logs
from meshkit.tls import CertificateFiles, peer_service, server_ssl_context

_log = logging.getLogger(__name__)


async def listen(app: web.Application, address: str, settings: SimulatorSettings) -> web.AppRunner:
    """Open a listener; every one of the simulator is opened here, with TLS when it is set."""
    host, port = split_address(address)
    tls: ssl.SSLContext | None = None
    if settings.tls_dir is not None:
        tls = server_ssl_context(CertificateFiles(settings.tls_dir))
        app.middlewares.append(_only(frozenset(settings.clients.split(","))))
    elif settings.tls_cert is not None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(settings.tls_cert, settings.tls_key)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, host, port, ssl_context=tls).start()
    _log.info("listening on %s", ", ".join(f"{a[0]}:{a[1]}" for a in runner.addresses))
    return runner


def _only(clients: frozenset[str]) -> Middleware:
    """Lets in whose certificate names one of `clients`."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        transport = request.transport
        peer = transport and peer_service(transport.get_extra_info("peercert"))
        if peer not in clients:
            raise web.HTTPForbidden(text=f"{peer} may not come in\n")
        return await handler(request)

    return check


async def serve(settings: SimulatorSettings) -> None:
    """Serve until SIGINT or SIGTERM."""
    exchange = Exchange(settings)
    limits = Limits(settings.weight_per_minute, settings.connections_per_5m)
    rest = RestApi(exchange, settings, limits)
    sockets = WebSocketServer(exchange, settings, limits)
    public, admin = web.Application(), web.Application()
    sockets.add_routes(public)
    rest.add_routes(public)
    AdminApi(exchange, rest, sockets).add_routes(admin)
    runners = [
        await listen(public, settings.listen, settings),
        await listen(admin, settings.admin_listen, settings),
    ]
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    tasks = [asyncio.create_task(work) for work in (exchange.run(), sockets.watch(), stop.wait())]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    await sockets.close()
    for runner in runners:
        await runner.cleanup()
    for task in done:
        task.result()


def main() -> None:
    """Entry point."""
    try:
        settings = SimulatorSettings()
        logs.configure("sim-exchange", settings.log_level.upper())
        uvloop.run(serve(settings))
    except (StateError, ValueError, OSError, sqlite3.Error) as error:
        if not logging.root.handlers:  # the settings themselves were wrong
            logs.tell(__name__, f"coinmesh-sim-exchange: {error}", logging.CRITICAL)
        else:
            _log.critical("%s", error)
        sys.exit(1)
