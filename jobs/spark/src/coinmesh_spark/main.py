"""The command coinmesh-spark."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading

from coinmesh_spark import archive, bars_query, stream
from coinmesh_spark.settings import StreamSettings
from coinmesh_spark.snapshots import SnapshotError
from meshkit import logs
from meshkit.errors import MeshError
from meshkit.settings import SettingsError, load


def main() -> None:
    """Run the command; the exit status is 1 for a failure and 2 for a wrong setting."""
    parser = argparse.ArgumentParser(prog="coinmesh-spark", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("stream", help="fold trades into bars, and archive every topic")
    running.add_argument("--only", choices=(bars_query.NAME, archive.NAME))
    commands.add_parser("archive", help="the same as: stream --only archive")
    commands.add_parser("reset", help="forget the fold's state: start from the first record")
    arguments = parser.parse_args()
    settings = load(StreamSettings)
    logs.configure(settings.service_name, settings.log_level)
    # Its messages are also in the query's exception, which the watch reports.
    logging.getLogger("py4j").setLevel(logging.CRITICAL)
    try:
        if arguments.command == "reset":
            for directory in stream.reset(settings):
                sys.stdout.write(f"removed {directory}\n")
            return
        only = archive.NAME if arguments.command == "archive" else arguments.only
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: stop.set())
        stream.run(settings, only, stop)
    except (MeshError, SettingsError, SnapshotError, stream.JvmLostError) as error:
        logging.getLogger(__name__).critical("%s", error)
        raise SystemExit(2 if isinstance(error, SettingsError) else 1) from error


if __name__ == "__main__":
    main()
