"""A service's grants as a markdown table, between two marker comments of its README."""

import re
from collections.abc import Iterator
from pathlib import Path

from coinmesh_access.table import AccessError, AccessTable

_BLOCK = re.compile(
    r"(?P<begin><!-- access:begin (?P<name>[a-z0-9-]+) -->\n)(?P<body>.*?)(?P<end><!-- access:end -->)",
    re.DOTALL,
)


def _rows(table: AccessTable, name: str) -> Iterator[tuple[str, str]]:
    entry = table.service(name)
    kafka, cassandra, redis, s3, vault = (
        entry.kafka,
        entry.cassandra,
        entry.redis,
        entry.s3,
        entry.vault,
    )
    yield "identity", f"`{table.spiffe_id(name)}`"
    if kafka.super:
        yield "Kafka", "everything (super user)"
    if kafka.write:
        yield "Kafka topics written", _code(kafka.write)
    if kafka.read:
        yield "Kafka topics read", _code(kafka.read)
    if kafka.groups:
        yield "Kafka groups", _code(kafka.groups)
    if kafka.transactional_ids:
        yield "Kafka transactional ids", _code(kafka.transactional_ids)
    if cassandra.admin:
        yield "Cassandra", "everything (super user)"
    if cassandra.select:
        yield "Cassandra tables read", _code(cassandra.select)
    if cassandra.modify:
        yield "Cassandra tables written", _code(cassandra.modify)
    if redis.all:
        yield "Redis", "everything"
    if redis.keys:
        yield "Redis keys", _code(redis.keys)
        yield "Redis commands", _code(redis.commands)
    if s3.admin:
        yield "S3", "everything"
    if s3.read:
        yield "S3 read", _code(f"{table.bucket}/{prefix}" for prefix in s3.read)
    if s3.write:
        yield "S3 written", _code(f"{table.bucket}/{prefix}" for prefix in s3.write)
    own = (f"pki_int/sign/{name}", f"kv/data/{name}/*")
    signs = ("transit/sign/audit",) if vault.sign_audit else ()
    yield "Vault", _code((*own, *(f"kv/data/{path}" for path in vault.read), *signs))


def _code(values: "Iterator[str] | tuple[str, ...]") -> str:
    return ", ".join(f"`{value}`" for value in values)


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
