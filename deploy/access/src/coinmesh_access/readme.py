"""Generated tables of markdown pages, each between two marker comments.

`access:begin SERVICE` has a service's grants, `services:begin` every service of the tree, and
`ports:begin DIRECTORY` the ports of the component files there.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from coinmesh_access import readme_tables, s3_identities, vault_policies
from coinmesh_access.table import AccessError, AccessTable

_BLOCK = re.compile(
    r"(?P<begin><!-- (?P<kind>access|ports|services):begin(?: (?P<name>[a-z0-9/-]+))? -->\n)"
    r"(?P<body>.*?)(?P<end><!-- (?P=kind):end -->)",
    re.DOTALL,
)


def _rows(table: AccessTable, name: str) -> Iterator[tuple[str, str]]:
    """Yield left and right column; a kind of access that the service lacks has no row."""
    entry = table.service(name)
    kafka, cassandra, redis, s3 = entry.kafka, entry.cassandra, entry.redis, entry.s3
    yield "identity", f"`{table.spiffe_id(name)}`"
    everything = {
        "Kafka": kafka.super,
        "Cassandra": cassandra.admin,
        "Redis": redis.all,
        "S3": s3.admin,
    }
    for component, granted in everything.items():
        if granted:
            yield component, "everything"
    listed: dict[str, Iterable[str]] = {
        "Kafka topics written": kafka.write,
        "Kafka topics read": kafka.read,
        "Kafka groups": kafka.groups,
        "Kafka groups whose offsets it reads": kafka.progress,
        "Kafka transactional ids": kafka.transactional_ids,
        "Cassandra tables read": cassandra.select,
        "Cassandra tables written": cassandra.modify,
        "Redis keys": redis.keys,
        "Redis commands": redis.commands,
        "S3 read": [s3_identities.place(table, prefix) for prefix in s3.read],
        "S3 written": [s3_identities.place(table, prefix) for prefix in s3.write],
        "Vault": vault_policies.paths(table, name),
        **{f"HTTP requests to {server}": requests for server, requests in entry.http.items()},
    }
    for title, values in listed.items():
        if values:
            yield title, ", ".join(f"`{value}`" for value in values)


def markdown(table: AccessTable, name: str) -> str:
    """Return the grants table for the README of `name`."""
    return readme_tables.markdown(("access", "to"), _rows(table, name))


def quoted(text: str) -> dict[str, str]:
    """Return service → the grants table between its markers in `text`."""
    return {m["name"]: m["body"] for m in _BLOCK.finditer(text) if m["kind"] == "access"}


def filled(table: AccessTable, page: Path, text: str) -> str:
    """Return the page's `text` with each marked table filled in."""

    def block(match: re.Match[str]) -> str:
        kind, name = match["kind"], match["name"] or ""
        if kind == "services":
            body = readme_tables.services(page)
        elif kind == "ports":
            body = readme_tables.ports(page.parent / name)
        else:
            body = markdown(table, name)
        return match["begin"] + body + match["end"]

    return _BLOCK.sub(block, text)


def update(table: AccessTable, path: Path) -> bool:
    """Update a page; return whether it changed. AccessError when it has no markers."""
    before = path.read_text()
    if not _BLOCK.search(before):
        raise AccessError(
            f"{path} has no markers: add the lines <!-- access:begin SERVICE --> "
            "and <!-- access:end -->"
        )
    after = filled(table, path, before)
    if after != before:
        path.write_text(after)
    return after != before
