"""The state of a running mesh, gathered from its components; nothing here prints.

Each source may fail separately: its part of the report is then None and `missing` has the reason.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx
from confluent_kafka import KafkaException
from cryptography import x509
from prometheus_client.parser import text_string_to_metric_families

from coinmesh_cli.connections import IDENTITY, http_client
from coinmesh_cli.records import TopicReader
from coinmesh_cli.versions import version_of
from coinmesh_contracts import topics
from coinmesh_local import operations
from coinmesh_local.control import SupervisorError
from coinmesh_local.mesh import Mesh
from coinmesh_local.steps import dispatch
from coinmesh_local.steps.errors import StepError
from meshkit.errors import MeshError
from meshkit.settings import KafkaSettings

#: Version of the report's schema: fields are added, none is removed or changes its meaning.
SCHEMA_VERSION = 1
MAX_LAG_SECONDS = 30.0
#: The archive writes once a minute.
MAX_ARCHIVE_LAG_SECONDS = 300.0
MAX_AGE_SECONDS = 60.0
#: Share of a certificate's lifetime; the agent renews at one third remaining.
MIN_LIFE_LEFT = 0.2
MIN_FREE = 2 << 30

Health = Literal["healthy", "degraded", "down"]
EXIT_STATUS: dict[Health, int] = {"healthy": 0, "degraded": 1, "down": 2}
T = TypeVar("T")
#: Name, labels and value of an instance's samples, of our own metrics only.
Samples = list[tuple[str, dict[str, str], float]]
#: Exceptions by which a source fails.
FAILURES = (
    httpx.HTTPError,
    OSError,
    ValueError,
    SupervisorError,
    StepError,
    MeshError,
    KafkaException,
)


@dataclass
class Report:
    """The output of `coinmesh status --json` (fields: cli/README.md)."""

    health: Health = "healthy"
    #: Reasons for a state other than healthy, worst first.
    reasons: list[str] = field(default_factory=list)
    #: Unavailable sources, with the reason.
    missing: list[str] = field(default_factory=list)
    components: list[dict[str, Any]] = field(default_factory=list)
    endpoints: dict[str, Any] = field(default_factory=dict)
    streams: list[dict[str, Any]] | None = None
    lag: list[dict[str, Any]] | None = None
    freshness: list[dict[str, Any]] | None = None
    gaps_open: int | None = None
    dead_letters: int | None = None
    certificates: list[dict[str, Any]] | None = None
    disk: dict[str, Any] | None = None
    time: str = ""
    version: int = SCHEMA_VERSION

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return asdict(self)


def gather(mesh: Mesh) -> Report:
    """Query every source once; a source that fails raises nothing."""
    report = Report(time=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"))
    report.endpoints = mesh.endpoints()
    report.components = _components(mesh, report)
    up = {row["name"] for row in report.components if row["pid"]}
    samples: dict[str, Samples] = {}
    for instance, url in metrics_urls(mesh).items():
        if instance in up:
            found = _attempt(report, f"{instance}'s metrics", lambda at=url: _scrape(at, mesh))
            if found is not None:
                samples[instance] = found
    now = time.time()
    collectors = {
        instance: found
        for instance, found in samples.items()
        if any(name.startswith("coinmesh_source_") for name, _, _ in found)
    }
    report.streams = _streams(collectors)
    report.gaps_open = _open_gaps(collectors)
    report.lag = _lag(samples)
    report.freshness = _freshness(samples, now, played=_plays_in_its_own_time(mesh))
    if any(row["component"] == "kafka" and row["ready"] for row in report.components):
        report.dead_letters = _attempt(report, "dead letters", lambda: dead_letters(mesh))
    report.certificates = _attempt(report, "certificates", lambda: certificates(mesh, now, samples))
    report.disk = _attempt(report, "disk", lambda: disk(mesh.home.root))
    judge(report)
    return report


def _attempt(report: Report, what: str, ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except FAILURES as error:
        report.missing.append(f"{what}: {error}")
        return None


def _components(mesh: Mesh, report: Report) -> list[dict[str, Any]]:
    rows = _attempt(report, "the supervisor", lambda: operations.status(mesh)) or []
    for row in rows:
        found = mesh.definitions[row["component"]]
        row |= {"version": version_of(found), "vital": found.vital}
    return rows


def metrics_urls(mesh: Mesh) -> dict[str, str]:
    """Return the metrics URL of each instance of the mesh's own services.

    Metrics of other components (the JVMs', Envoy's) are readable by Prometheus only and not needed
    here.
    """
    return {
        target["instance"]: target["url"]
        for target in mesh.metrics_targets()
        if "COINMESH_METRICS_LISTEN" in mesh.definitions[target["job"]].environment
    }


def _scrape(url: str, mesh: Mesh) -> Samples:
    with http_client({"url": url, "ca": str(mesh.home.ca)}, mesh.home.tls) as client:
        text = client.get(url).raise_for_status().text
    # Python's own metrics aren't used, and parsing takes most of the time.
    own = "".join(line for line in text.splitlines(True) if line.startswith("coinmesh_"))
    return [
        (sample.name, dict(sample.labels), sample.value)
        for family in text_string_to_metric_families(own)
        for sample in family.samples
    ]


def _named(samples: Samples, *names: str) -> Samples:
    return [sample for sample in samples if sample[0] in names]


def _streams(collectors: dict[str, Samples]) -> list[dict[str, Any]] | None:
    """Return events, duplicates and gaps of each collected stream since its collector's start."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for service, samples in collectors.items():
        for what in ("events", "duplicates", "gaps"):
            for _, labels, value in _named(samples, f"coinmesh_source_{what}_total"):
                instrument, channel = labels["instrument"], labels["channel"]
                row = {"service": service, "instrument": instrument, "channel": channel}
                rows.setdefault((service, instrument, channel), row)[what] = int(value)
    return list(rows.values()) if collectors else None


def _open_gaps(collectors: dict[str, Samples]) -> int | None:
    values = [
        value
        for samples in collectors.values()
        for _, _, value in _named(samples, "coinmesh_source_open_gaps")
    ]
    return int(sum(values)) if values else None


def _lag(samples: dict[str, Samples]) -> list[dict[str, Any]] | None:
    """Return the lag per topic: the sum of records and the maximum of seconds over partitions."""
    rows: dict[tuple[str, str | None, str], dict[str, Any]] = {}
    for service, found in samples.items():
        for name, labels, value in _named(
            found,
            "coinmesh_consumer_lag_records",
            "coinmesh_consumer_lag_seconds",
            "coinmesh_spark_lag_records",
            "coinmesh_spark_lag_seconds",
        ):
            query = labels.get("query")
            topic = labels.get("topic", "")
            row = {"service": service, "query": query, "topic": topic}
            row = rows.setdefault((service, query, topic), row | {"records": None, "seconds": None})
            if name.endswith("records"):
                row["records"] = int(value) + (row["records"] or 0)
            else:
                row["seconds"] = max(value, row["seconds"] or 0.0)
    return list(rows.values()) if rows else None


def is_late(row: dict[str, Any]) -> bool:
    """Return whether a row of `lag` exceeds its limit."""
    archive = (row["query"] or "").startswith("archive-")
    most = MAX_ARCHIVE_LAG_SECONDS if archive else MAX_LAG_SECONDS
    return (row["seconds"] or 0) > most


def _freshness(
    samples: dict[str, Samples], now: float, *, played: bool
) -> list[dict[str, Any]] | None:
    """Return the newest record's age per live topic and gateway, and the newest folded trade's.

    The trade has the exchange's time and is omitted if `played`.
    """
    found = [
        (service, labels["topic"], value)
        for service, told in samples.items()
        for _, labels, value in _named(told, "coinmesh_live_newest_seconds")
        if labels["topic"] != topics.INSTRUMENTS.name
    ]
    for service, told in samples.items():
        folded = [value for _, _, value in _named(told, "coinmesh_spark_newest_event_seconds")]
        if folded and not played:
            found.append((service, "bars' newest trade", max(folded)))
    return [
        {"service": service, "what": what, "newest": at, "age_seconds": round(now - at, 3)}
        for service, what, at in found
    ] or None


def _plays_in_its_own_time(mesh: Mesh) -> bool:
    """Return whether the simulated exchange keeps a capture's times, which may be years ago."""
    return mesh.options.source == "sim" and mesh.environment.get("COINMESH_SIM_TIME") == "kept"


def dead_letters(mesh: Mesh) -> int:
    """Return the number of records in the dead letter topic, including replayed ones.

    Raises the errors of `TopicReader`, and StepError for a missing setting.
    """
    settings = dispatch.read(KafkaSettings, mesh.settings(client=IDENTITY))
    with closing(TopicReader(settings, topics.DEAD_LETTERS.name)) as reader:
        return sum(high - low for low, high in reader.bounds.values())


def certificates(mesh: Mesh, now: float, samples: dict[str, Samples]) -> list[dict[str, Any]]:
    """Return every identity's certificate on disk and its component's failed hook attempts.

    Certificates in memory are renewed from disk.
    """
    rows: list[dict[str, Any]] = []
    failures = {
        labels["peer"]: int(value)
        for found in samples.values()
        for _, labels, value in _named(found, "coinmesh_certificate_hooks_pending")
    }
    found = [(path.parent.parent.name, path) for path in mesh.home.tls.glob("*/current/tls.crt")]
    # Vault's listener has a certificate of another CA.
    listener = mesh.home.secrets / "openbao" / "current" / "tls.crt"
    for identity, path in sorted([*found, *([("openbao", listener)] if listener.exists() else [])]):
        loaded = x509.load_pem_x509_certificate(path.read_bytes())
        begins = loaded.not_valid_before_utc.timestamp()
        ends = loaded.not_valid_after_utc.timestamp()
        rows.append(
            {
                "identity": identity,
                "serial": f"{loaded.serial_number:x}",
                "not_after": loaded.not_valid_after_utc.isoformat().replace("+00:00", "Z"),
                "remaining_seconds": int(ends - now),
                "life_seconds": int(ends - begins),
                "hook_failures": failures.get(identity, 0),
            }
        )
    return rows


def disk(root: Path) -> dict[str, Any]:
    """Return the home's disk use by component, and the free space of its file system."""
    usage = shutil.disk_usage(root)
    parts = {
        entry.name: _size(entry)
        for entry in sorted((root / "data").iterdir() if (root / "data").is_dir() else ())
        if entry.is_dir()
    }
    logs = _size(root / "logs")
    return {
        "free_bytes": usage.free,
        "total_bytes": usage.total,
        "data_bytes": sum(parts.values()),
        "logs_bytes": logs,
        "components": parts,
    }


def _size(directory: Path) -> int:
    """Return the disk use of all files in bytes, without files that are deleted meanwhile."""
    total = 0
    for path in directory.rglob("*"):
        try:
            if not path.is_symlink():
                total += path.stat().st_blocks * 512
        except OSError:
            continue
    return total


def judge(report: Report) -> None:
    """Set the report's health and a reason for each problem."""
    services = [row for row in report.components if row["kind"] == "service"]
    wrong = [row for row in services if not row["ready"]]
    vital = [row["name"] for row in wrong if row["vital"]]
    reasons = [f"{row['name']} is {_state(row)}" for row in _vital_first(wrong)]
    if report.gaps_open:
        reasons.append(f"{report.gaps_open} gaps are open")
    late = list(filter(is_late, report.lag or ()))
    reasons += [f"{row['service']} is {row['seconds']:.0f} s behind {row['topic']}" for row in late]
    stale = [row for row in report.freshness or () if row["age_seconds"] > MAX_AGE_SECONDS]
    reasons += [
        f"{row['what']}: newest is {row['age_seconds']:.0f} s old in {row['service']}"
        for row in stale
    ]
    for row in report.certificates or ():
        if row["remaining_seconds"] <= 0:
            reasons.append(f"the certificate of {row['identity']} has expired")
        elif row["remaining_seconds"] < MIN_LIFE_LEFT * row["life_seconds"]:
            reasons.append(f"the certificate of {row['identity']} is overdue for renewal")
        if row.get("hook_failures"):
            reasons.append(
                f"{row['identity']} doesn't use its new certificate: "
                f"{row['hook_failures']} attempts failed"
            )
    if report.disk is not None and report.disk["free_bytes"] < MIN_FREE:
        reasons.append(f"only {report.disk['free_bytes'] >> 20} MiB of disk are free")
    if report.missing and not vital:
        reasons += [f"no answer from {text}" for text in report.missing]
    report.reasons = reasons
    report.health = "down" if vital or not services else "degraded" if reasons else "healthy"
    if not services:
        report.reasons.insert(0, "no component is defined")


def _vital_first(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: not row["vital"])


def _state(row: dict[str, Any]) -> str:
    if row["state"] == "ready":
        return "running but not ready"
    return row["state"] + (f" ({row['detail']})" if row["detail"] else "")
