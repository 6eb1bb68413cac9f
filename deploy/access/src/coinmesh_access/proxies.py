"""Loopback addresses are reached directly, whatever proxy the environment names."""

import os

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def bypass_for_loopback() -> None:
    """Except loopback from the proxies of this process and of those that it starts.

    Every client heeds NO_PROXY: httpx, requests, gRPC, Go, curl. Other addresses, such as those of
    downloads, are still reached by the proxy.
    """
    for name in ("NO_PROXY", "no_proxy"):
        excepted = [entry.strip() for entry in os.environ.get(name, "").split(",") if entry.strip()]
        if "*" not in excepted:
            os.environ[name] = ",".join(dict.fromkeys([*excepted, *LOOPBACK]))
