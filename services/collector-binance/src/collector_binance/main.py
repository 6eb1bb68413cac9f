"""The command `collector-binance`: serve, replay."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    parser = argparse.ArgumentParser(prog="collector-binance", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="collect, as the environment's COINMESH_ settings say")
    again = commands.add_parser("replay", help="run a capture through the core, offline")
    again.add_argument("capture", type=Path, help="a text capture (plain or gzip), or archived raw")
    again.add_argument("--out", type=Path, required=True, metavar="DIR", help="a file per topic")
    again.add_argument("--book-top", type=Path, metavar="FILE", help="top after each book event")
    again.add_argument("--instruments", type=Path, metavar="FILE", help="an exchangeInfo JSON")
    given = parser.parse_args(arguments)
    if given.command == "serve":
        from collector_binance.serve import main as serve

        return serve()
    return _replay(given.capture, given.out, given.book_top, given.instruments)


def _replay(capture: Path, out: Path, book_top: Path | None, instruments: Path | None) -> int:
    from coinmesh_sources.archive import CaptureError
    from collector_binance.replay import replay

    try:
        counts = replay(capture, out, book_top, instruments)
    except CaptureError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"can't write {error.filename}: {error.strerror}\n")
        return 2
    for topic, count in counts.items():
        sys.stdout.write(f"{count:>9}  {topic}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
