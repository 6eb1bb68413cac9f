"""Bypass of proxies for loopback addresses."""

import os

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def bypass_for_loopback() -> None:
    """Exclude loopback from the proxies of this process and its children.

    All clients respect NO_PROXY: httpx, requests, gRPC, Go, curl. Other addresses, such as those of
    downloads, are still reached through the proxy.
    """
    for name in ("NO_PROXY", "no_proxy"):
        excepted = [entry.strip() for entry in os.environ.get(name, "").split(",") if entry.strip()]
        if "*" not in excepted:
            os.environ[name] = ",".join(dict.fromkeys([*excepted, *LOOPBACK]))
