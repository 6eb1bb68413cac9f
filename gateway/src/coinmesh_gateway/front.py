"""The command `coinmesh-envoy-front`: an Envoy for a server without per-service access control.

The server listens on the loopback interface only; clients connect to Envoy, which requires a
certificate and permits each service the requests in the table's `http.<server>`.
"""

import argparse
import base64
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from coinmesh_access.table import TABLE, AccessError, AccessTable, load
from coinmesh_gateway import mutual
from coinmesh_gateway.catalogue import CatalogueError
from coinmesh_gateway.clusters import loopback_cluster, mutual_cluster, socket_cluster
from coinmesh_gateway.config import write_all
from coinmesh_gateway.settings import parse_address, socket_path
from coinmesh_gateway.tls import Tls
from coinmesh_manifests.grants import HttpAccess
from meshkit import logs
from meshkit.settings import Address
from meshkit.tls import is_loopback

#: The user name of this Envoy at a server with password authentication.
USER = "front"


def generate(
    table: AccessTable,
    server: str,
    listen: Address,
    routes: Sequence[tuple[str, Address | Path]],
    tls: Tls,
    *,
    escaped_slashes: bool = False,
    password: str | None = None,
    upstream: str | None = None,
) -> dict[str, Any]:
    """Return Envoy's bootstrap configuration.

    Args:
        table: The access table.
        server: The server's name in the table.
        listen: The address for services.
        routes: Path prefixes with the loopback address or the Unix socket of the server; the first
            match applies.
        tls: Envoy's own certificate and the trusted CA.
        escaped_slashes: Whether a path may contain `%2F`; otherwise such a request is rejected.
        password: The password of the user `front` at the server.
        upstream: The expected service identity of a server with mutual TLS; None for plaintext.

    Raises:
        AccessError: The table permits no request to this server.
    """
    targets = [
        {"match": {"prefix": prefix}, "route": {"cluster": str(address), "timeout": "60s"}}
        for prefix, address in routes
    ]
    listener = mutual.listener(
        server,
        listen,
        tls,
        _policies(table, server),
        targets,
        headers=_authorization(password),
        escaped_slashes=escaped_slashes,
    )
    return {
        "node": {"id": server, "cluster": "coinmesh"},
        "static_resources": {
            "listeners": [listener],
            "clusters": [
                _cluster(address, upstream, tls)
                for address in dict.fromkeys(address for _, address in routes)
            ],
        },
    }


def _cluster(address: Address | Path, upstream: str | None, tls: Tls) -> dict[str, Any]:
    if isinstance(address, Path):
        return socket_cluster(str(address), address)
    if upstream:
        return mutual_cluster(str(address), address, upstream, tls)
    return loopback_cluster(str(address), address)


def _authorization(password: str | None) -> list[dict[str, Any]]:
    if password is None:
        return []
    basic = base64.b64encode(f"{USER}:{password}".encode()).decode()
    return [
        {
            "header": {"key": "authorization", "value": f"Basic {basic}"},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        }
    ]


def _policies(table: AccessTable, server: str) -> dict[str, Any]:
    policies = {
        name: mutual.policy(
            table.spiffe_id(name),
            [_permission(HttpAccess.parse(text)) for text in service.http[server]],
        )
        for name, service in table.services.items()
        if server in service.http
    }
    if not policies:
        raise AccessError(f"nobody in the table has http.{server}; is {server} its name there?")
    return policies


def _permission(allowed: HttpAccess) -> dict[str, Any]:
    path = {"url_path": {"path": {"safe_regex": {"regex": allowed.path}}}}
    if not allowed.methods:
        return path
    methods = {"safe_regex": {"regex": "|".join(allowed.methods)}}
    method = {"header": {"name": ":method", "string_match": methods}}
    return {"and_rules": {"rules": [method, path]}}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 2 when an argument is wrong."""
    options = _parser().parse_args(arguments)
    out = Path(options.out).absolute()
    tls = Tls(options.tls_dir.absolute(), out.parent)
    try:
        listen = parse_address("--listen", options.listen)
        document = generate(
            load(options.table),
            options.server,
            listen,
            list(_routes(options.route)),
            tls,
            escaped_slashes=options.escaped_slashes,
            password=options.password.read_text() if options.password else None,
            upstream=options.upstream,
        )
        write_all(out, document, tls)
    except (AccessError, CatalogueError) as error:
        _fail(str(error))
        return 2
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}")
        return 2
    return 0


def _fail(why: str) -> None:
    logs.tell(__name__, f"coinmesh-envoy-front: {why}", logging.ERROR)


def _routes(options: Sequence[str]) -> Iterator[tuple[str, Address | Path]]:
    for option in options:
        prefix, equals, address = option.partition("=")
        if not equals or not prefix.startswith("/"):
            raise AccessError(f"--route {option!r}: expected /PREFIX=HOST:PORT or =unix:PATH")
        if address.startswith("unix:"):
            yield prefix, socket_path(Path(address.removeprefix("unix:")))
            continue
        found = parse_address("--route", address)
        if not is_loopback(found.host):
            raise AccessError(f"--route {option}: must be on the loopback interface")
        yield prefix, found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="coinmesh-envoy-front",
        description="Configures an Envoy before a server that can't tell services apart.",
    )
    add = parser.add_argument
    add("server", help="its name in the access table, whose http.NAME entries apply")
    add("--out", required=True, metavar="FILE", help="where the configuration goes (JSON)")
    add("--listen", required=True, metavar="HOST:PORT", help="where services connect")
    add("--tls-dir", required=True, type=Path, metavar="DIR", help="the front's certificate")
    add(
        "--route",
        action="append",
        required=True,
        metavar="/PREFIX=HOST:PORT|unix:PATH",
        help="the server, on the loopback interface or a socket; the first that fits a path",
    )
    add("--escaped-slashes", action="store_true", help="take paths that hold %%2F")
    add("--password", type=Path, metavar="FILE", help="what the server asks of its user `front`")
    add("--upstream", metavar="SERVICE", help="who the server is, by mutual TLS; else plaintext")
    add("--table", type=Path, default=TABLE, metavar="FILE", help="the access table")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
