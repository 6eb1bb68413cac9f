"""The exchange with its two listeners, public and admin."""

import asyncio
import logging
import ssl
from collections.abc import Awaitable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from coinmesh_simulators.exchange.admin import AdminApi
from coinmesh_simulators.exchange.exchange import Exchange
from coinmesh_simulators.exchange.limits import Limits
from coinmesh_simulators.exchange.rest import RestApi
from coinmesh_simulators.exchange.settings import SimulatorSettings, split_address
from coinmesh_simulators.exchange.websockets import WebSocketServer
from meshkit.tls import (
    CertificateFiles,
    peer_service,
    public_server_context,
    server_ssl_context,
)

_log = logging.getLogger(__name__)


class Server:
    """An exchange with the settings' limits and listeners."""

    def __init__(self, settings: SimulatorSettings) -> None:
        """Load the exchange's state; raise the errors of `Exchange`."""
        self._settings = settings
        self._exchange = Exchange(settings)
        limits = Limits(
            settings.weight_per_minute,
            settings.connections_per_5m,
            raw_requests=settings.raw_requests_per_5m,
        )
        rest = RestApi(self._exchange, settings, limits)
        self._sockets = WebSocketServer(self._exchange, settings, limits)
        self._public, self._admin = web.Application(), web.Application()
        self._sockets.add_routes(self._public)
        rest.add_routes(self._public)
        AdminApi(self._exchange, rest, self._sockets).add_routes(self._admin)
        self._runners: list[web.AppRunner] = []

    async def listen(self) -> list[int]:
        """Open the listeners and return the ports of the public and the admin one."""
        for app, address in (
            (self._public, self._settings.listen),
            (self._admin, self._settings.admin_listen),
        ):
            self._runners.append(await listen(app, address, self._settings))
        return [runner.addresses[0][1] for runner in self._runners]

    async def run(self, stopped: Awaitable[object]) -> None:
        """Play or generate the market until `stopped`, then close everything."""
        work = (self._exchange.run(), self._sockets.watch(), stopped)
        tasks = [asyncio.ensure_future(each) for each in work]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        await self._sockets.close()
        for runner in self._runners:
            await runner.cleanup()
        for task in done:
            task.result()


async def listen(app: web.Application, address: str, settings: SimulatorSettings) -> web.AppRunner:
    """Open a listener, with TLS if configured; all of the simulator's are opened here."""
    host, port = split_address(address)
    tls: ssl.SSLContext | None = None
    if settings.tls_dir is not None:
        tls = server_ssl_context(CertificateFiles(settings.tls_dir))
        app.middlewares.append(_only(frozenset(settings.clients.split(","))))
    elif settings.tls_cert is not None:
        tls = public_server_context(settings.tls_cert, settings.tls_key)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, host, port, ssl_context=tls).start()
    _log.info("listening on %s", ", ".join(f"{a[0]}:{a[1]}" for a in runner.addresses))
    return runner


def _only(clients: frozenset[str]) -> Middleware:
    """Return a middleware that admits only clients whose certificate names one of `clients`."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        transport = request.transport
        peer = transport and peer_service(transport.get_extra_info("peercert"))
        if peer not in clients:
            raise web.HTTPForbidden(text=f"{peer} may not come in\n")
        return await handler(request)

    return check
