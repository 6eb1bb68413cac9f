"""A tiny component for the supervisor's tests.

fake.py serve PORT [--delay S] [--deaf] [--child] [--until FILE]: listens after S seconds; deaf to
SIGTERM; with a child of its own that is deaf too; ends with status 3 when FILE appears.
fake.py step HOST:PORT: succeeds only when that answers. fake.py fail: prints, ends with status 7.
"""

import argparse
import pathlib
import signal
import socket
import subprocess
import sys
import time


def serve(arguments: argparse.Namespace) -> int:
    if arguments.deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if arguments.child:
        subprocess.Popen([sys.executable, __file__, "serve", "0", "--deaf"])
    time.sleep(arguments.delay)
    with socket.create_server(("127.0.0.1", int(arguments.target))) as server:
        server.settimeout(0.05)
        print("serving", flush=True)
        while not (arguments.until and pathlib.Path(arguments.until).exists()):
            try:
                server.accept()[0].close()
            except TimeoutError:
                continue
    return 3


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("mode")
    parser.add_argument("target", nargs="?", default="0")
    parser.add_argument("--delay", type=float, default=0)
    parser.add_argument("--deaf", action="store_true")
    parser.add_argument("--child", action="store_true")
    parser.add_argument("--until")
    arguments = parser.parse_args()
    if arguments.mode == "serve":
        return serve(arguments)
    if arguments.mode == "step":
        host, _, port = arguments.target.rpartition(":")
        socket.create_connection((host, int(port)), timeout=1).close()
        return 0
    print("the reason why it fails")
    return 7


if __name__ == "__main__":
    sys.exit(main())
