"""`coinmesh-sim-exchange`: read the settings and serve until a signal arrives."""

import asyncio
import logging
import signal
import sqlite3
import sys

import uvloop

from coinmesh_simulators.exchange.server import Server
from coinmesh_simulators.exchange.settings import SimulatorSettings
from coinmesh_simulators.exchange.store import StateError
from meshkit import logs

_log = logging.getLogger(__name__)


async def serve(settings: SimulatorSettings) -> None:
    """Serve until SIGINT or SIGTERM."""
    server = Server(settings)
    await server.listen()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    await server.run(stop.wait())


def main() -> None:
    """Run the command; exit with status 1 on a startup error."""
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
