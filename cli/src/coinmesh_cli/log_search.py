"""Search log lines across components: in the log store when it runs, and in the files."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from coinmesh_cli.connections import http_client
from coinmesh_local import log_files
from coinmesh_local.mesh import Mesh
from meshkit import log_lines
from meshkit.logs import timestamp

#: The store's indices, one per day (named by deploy/local/config/rsyslog.conf).
INDICES = "coinmesh-logs-*"
PAGE = 1000
#: Vault's second audit device duplicates the first one; the store excludes it too.
REPEATED = "openbao-audit-2"
_SPAN = re.compile(r"(\d+)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

Line = dict[str, Any]


class SearchError(Exception):
    """Raised when a query is invalid; the message states the valid form."""


@dataclass(frozen=True)
class Wanted:
    """Conditions for log lines; None stands for no condition."""

    trace_id: str | None = None
    #: A service, component or replica.
    service: str | None = None
    since: datetime | None = None
    grep: re.Pattern[str] | None = None

    @classmethod
    def parse(
        cls, trace: str | None, service: str | None, since: str | None, grep: str | None
    ) -> Wanted:
        """Parse command line arguments; raise SearchError for a malformed one."""
        if trace is not None and not re.fullmatch(r"[0-9a-f]{32}", trace):
            raise SearchError(f"a trace id is 32 lower-case hexadecimal digits, not {trace!r}")
        try:
            pattern = re.compile(grep) if grep is not None else None
        except re.error as error:
            raise SearchError(f"--grep takes a regular expression; {grep!r}: {error}") from error
        return cls(trace, service, _moment(since) if since else None, pattern)

    def matches(self, line: Line) -> bool:
        """Return whether the line fulfils every condition."""
        if self.trace_id is not None and line.get("trace_id") != self.trace_id:
            return False
        if self.service is not None and self.service not in (line["service"], line["instance"]):
            return False
        if self.since is not None and line["ts"] < timestamp(self.since):
            return False
        return (
            self.grep is None or self.grep.search(json.dumps(line, ensure_ascii=False)) is not None
        )


def _moment(text: str) -> datetime:
    if found := _SPAN.fullmatch(text):
        return datetime.now(UTC) - timedelta(seconds=int(found[1]) * _SECONDS[found[2]])
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise SearchError(
            f"--since takes 30s, 10m, 2h, 1d or a time like 2026-01-31T12:00:00Z, not {text!r}"
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def search(mesh: Mesh, wanted: Wanted, limit: int) -> tuple[str, list[Line]]:
    """Return the searched sources and the newest `limit` matching lines, sorted by time.

    Sources are "store", "files" or both. A store with fewer than `limit` matches may lag, or its
    shipper may be dead: the files supply the rest.
    """
    stored = from_store(mesh, wanted, limit)
    if stored is not None and len(stored) >= limit:
        return "store", stored
    lines = merged(stored or [], from_files(mesh.home.logs, wanted))
    return "files" if stored is None else "store and files", lines[-limit:]


def merged(stored: list[Line], written: Iterable[Line]) -> list[Line]:
    """Return the store's lines and those of the files that the store lacks, sorted by time.

    Lines match if time, instance and message are equal. A line without a timestamp has its shipping
    time in the store, but in the files the time of the preceding line: it matches the first later
    store line with its message that no other line of the files matches.
    """
    unmatched = Counter((line["ts"], line["instance"], line["message"]) for line in stored)
    unknown: list[Line] = []
    for line in written:
        key = (line["ts"], line["instance"], line["message"])
        if unmatched[key]:
            unmatched[key] -= 1
        else:
            unknown.append(line)
    later: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for ts, instance, message in sorted(unmatched.elements()):
        later[instance, message].append(ts)
    missing: list[Line] = []
    for line in unknown:
        times = later[line["instance"], line["message"]]
        shipped = next((ts for ts in times if ts >= line["ts"]), None)
        if shipped is None:
            missing.append(line)
        else:
            times.remove(shipped)
    return sorted(stored + missing, key=lambda line: line["ts"])


def from_files(directory: Path, wanted: Wanted) -> Iterator[Line]:
    """Yield matching lines of every log file, including rotated ones, file by file."""
    rotated = [path for path in directory.glob("*.log.*") if log_files.number(path)]
    rotated.sort(key=lambda path: (path.stem, log_files.number(path)))
    for path in (*rotated, *sorted(directory.glob("*.log"))):
        instance = log_lines.instance_of(path.name)
        if wanted.service not in (None, instance, log_lines.service_of(instance)):
            continue
        if instance == REPEATED != wanted.service:
            continue
        with open(path, encoding="utf-8", errors="replace") as file:
            yield from matching(file, instance, wanted)


def matching(texts: Iterable[str], instance: str, wanted: Wanted) -> Iterator[Line]:
    """Yield matching lines of one log; a line without a time gets that of the preceding line."""
    moment = datetime.fromtimestamp(0, UTC)
    for text in texts:
        if wanted.trace_id is not None and wanted.trace_id not in text:
            continue
        line = log_lines.normalize(text, instance, moment)
        moment = datetime.fromisoformat(line["ts"])
        if wanted.matches(line):
            yield line


def from_store(mesh: Mesh, wanted: Wanted, limit: int) -> list[Line] | None:
    """Return the same from the log store; None when the mesh has none or it is unreachable."""
    store = mesh.endpoints().get("log-store")
    if store is None:
        return None
    conditions: list[Any] = []
    if wanted.trace_id is not None:
        conditions.append({"term": {"trace_id": wanted.trace_id}})
    if wanted.service is not None:
        either = [{"term": {name: wanted.service}} for name in ("service", "instance")]
        conditions.append({"bool": {"should": either}})
    if wanted.since is not None:
        conditions.append({"range": {"ts": {"gte": timestamp(wanted.since)}}})
    query: dict[str, Any] = {
        "size": PAGE,
        "query": {"bool": {"filter": conditions}},
        "sort": [{"ts": {"order": "desc", "unmapped_type": "date_nanos"}}, {"_id": "desc"}],
    }
    try:
        with http_client(store, mesh.home.tls, timeout=5) as client:
            return _newest(client, query, wanted, limit)
    except (httpx.HTTPError, OSError, KeyError, ValueError):
        return None


def _newest(client: httpx.Client, query: dict[str, Any], wanted: Wanted, limit: int) -> list[Line]:
    """Page through the hits, newest first, until `limit` lines match; return them by time."""
    lines: list[Line] = []
    while len(lines) < limit:
        answer = client.post(f"/{INDICES}/_search", json=query)
        hits = answer.raise_for_status().json()["hits"]["hits"]
        lines += [hit["_source"] for hit in hits if wanted.matches(hit["_source"])]
        if len(hits) < PAGE:
            break
        query["search_after"] = hits[-1]["sort"]
    return sorted(lines[:limit], key=lambda line: line["ts"])


def show(line: Line) -> str:
    """Return a line as text: time, level, instance, message and the other fields."""
    known = {"ts", "level", "service", "instance", "logger", "message", "exception", "trace_id"}
    rest = " ".join(f"{k}={v}" for k, v in line.items() if k not in known and v is not None)
    text = f"{line['ts'][11:23]} {line['level']:<8} {line.get('instance', line['service']):<18} "
    text += line["message"] + (f"  {rest}" if rest else "")
    return text + (f"\n{line['exception']}" if line.get("exception") else "")
