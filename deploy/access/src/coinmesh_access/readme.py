"""A service's grants as a markdown table, between two marker comments of its README."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from coinmesh_access import s3_identities, vault_policies
from coinmesh_access.table import AccessError, AccessTable

_BLOCK = re.compile(
    r"(?P<begin><!-- access:begin (?P<name>[a-z0-9-]+) -->\n)"
    r"(?P<body>.*?)(?P<end><!-- access:end -->)",
    re.DOTALL,
)


def _rows(table: AccessTable, name: str) -> Iterator[tuple[str, str]]:
    """Left and right column; a kind of access that the service lacks has no row."""
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
    """The table that the README of `name` quotes."""
    lines = ["| access | to |", "| --- | --- |"]
    lines += [f"| {left} | {right} |" for left, right in _rows(table, name)]
    return "\n".join(lines) + "\n"


def quoted(text: str) -> dict[str, str]:
    """Service → the table that stands between its markers in `text`."""
    return {match["name"]: match["body"] for match in _BLOCK.finditer(text)}


def filled(table: AccessTable, text: str) -> str:
    """`text` with the table of each marked service put in."""
    return _BLOCK.sub(
        lambda match: match["begin"] + markdown(table, match["name"]) + match["end"], text
    )


def update(table: AccessTable, path: Path) -> bool:
    """Bring a README in line; True when it changed, AccessError when it has no markers."""
    before = path.read_text()
    if not quoted(before):
        raise AccessError(
            f"{path} has no markers: add the lines <!-- access:begin SERVICE --> "
            "and <!-- access:end -->"
        )
    after = filled(table, before)
    if after != before:
        path.write_text(after)
    return after != before
