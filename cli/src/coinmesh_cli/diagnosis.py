"""Checks of a running mesh, based on its report and on settings of Kafka and the registry."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import httpx
from confluent_kafka import KafkaException

from coinmesh_cli.connections import http_client
from coinmesh_cli.findings import Finding
from coinmesh_cli.health import MAX_AGE_SECONDS, MIN_LIFE_LEFT, Report, is_late
from coinmesh_contracts import topics
from coinmesh_local.mesh import Mesh
from coinmesh_local.steps import dispatch
from coinmesh_local.steps.errors import StepError
from coinmesh_local.steps.schemas import contracts
from meshkit.files import write_atomically
from meshkit.kafka import client_config
from meshkit.kafka_admin import AdminClient, ConfigResource, ResourceType
from meshkit.settings import KafkaSettings

TIMEOUT = 10.0


def check(mesh: Mesh, report: Report) -> Iterator[Finding]:
    """Yield the findings of all checks of the running mesh that `report` describes."""
    yield from components(report)
    yield from flow(report)
    yield from certificates(report)
    yield from topic_settings(mesh)
    yield from schemas(mesh)
    yield from growth(mesh, report, time.time())
    for text in report.missing:
        yield Finding("sources", "warning", f"no answer from {text}", "see the component's log")


def components(report: Report) -> Iterator[Finding]:
    """Check readiness and restarts."""
    services = [row for row in report.components if row["kind"] == "service"]
    for row in services:
        name = row["name"]
        if not row["ready"]:
            stopped = row["state"] == "stopped"
            do = "`coinmesh up`" if stopped else f"`coinmesh logs {name}`"
            what = f"{row['state']} {row['detail']}".strip()
            yield Finding(name, "bad", what if row["state"] != "ready" else "not ready", do)
        elif row["restarts"]:
            do = f"`coinmesh logs {name}` tells why it ended"
            yield Finding(name, "warning", f"restarted {row['restarts']} times", do)
    if services and all(row["ready"] for row in services):
        yield Finding("components", "ok", f"{len(services)} are ready")


def flow(report: Report) -> Iterator[Finding]:
    """Check lag, freshness, gaps and dead letters."""
    late = list(filter(is_late, report.lag or ()))
    for row in late:
        what = f"{row['seconds']:.0f} s ({row['records']} records) behind on {row['topic']}"
        yield Finding(row["service"], "bad", what, "more CPU, or see its log for slow batches")
    if report.lag is not None and not late:
        yield Finding("lag", "ok", "no consumer is far behind")
    old = [row for row in report.freshness or () if row["age_seconds"] > MAX_AGE_SECONDS]
    for row in old:
        asked = sorted({row["service"], *(one["service"] for one in report.streams or ())})
        do = "is the exchange reachable? " + ", ".join(f"`coinmesh logs {name}`" for name in asked)
        what = f"{row['what']} is {row['age_seconds']:.0f} s old in {row['service']}"
        yield Finding("freshness", "bad", what, do)
    if report.freshness is not None and not old:
        yield Finding("freshness", "ok", f"no live topic is {MAX_AGE_SECONDS:.0f} s old")
    if report.gaps_open is not None:
        do = "they are repaired over REST; if they stay: GET /v1/gaps" if report.gaps_open else ""
        level = "warning" if report.gaps_open else "ok"
        yield Finding("gaps", level, f"{report.gaps_open} open", do)
    if report.dead_letters:
        do = "`coinmesh dlq list`, mend, then `coinmesh dlq replay`"
        topic = topics.DEAD_LETTERS
        kept = f"replayed ones too, for {topic.retention_days} days"
        what = f"{report.dead_letters} in {topic.name} ({kept})"
        yield Finding("dead letters", "warning", what, do)


def certificates(report: Report) -> Iterator[Finding]:
    """Check the certificates' remaining lifetime and use; renewal is due at one third."""
    late = 0
    for row in report.certificates or ():
        if row["remaining_seconds"] < MIN_LIFE_LEFT * row["life_seconds"]:
            late += 1
            what = f"{row['identity']}: {max(row['remaining_seconds'], 0) // 60} min left"
            yield Finding(
                "certificate", "bad", what, "`coinmesh logs certs`, `coinmesh logs openbao`"
            )
        if row.get("hook_failures"):
            late += 1
            what = f"{row['identity']} doesn't use its new one ({row['hook_failures']} attempts)"
            do = f"`coinmesh logs certs`; `coinmesh restart {row['identity']}` reads it"
            yield Finding("certificate", "bad", what, do)
    if report.certificates and not late:
        soonest = min(row["remaining_seconds"] for row in report.certificates)
        what = f"{len(report.certificates)}, the first ends in {soonest // 60} min"
        yield Finding("certificates", "ok", what)


def topic_settings(mesh: Mesh) -> Iterator[Finding]:
    """Compare partitions and settings of every topic with the contracts' table."""
    area, do = (
        "topics",
        "`coinmesh deploy topics` sets settings; partitions need a new topic version",
    )
    try:
        settings = dispatch.read(KafkaSettings, mesh.settings())
        admin = AdminClient(client_config(settings, "coinmesh-doctor") | {"log_level": 0})
        there = admin.list_topics(timeout=TIMEOUT).topics
        wanted = {topic.name: topic for topic in topics.ALL}
        asked = [ConfigResource(ResourceType.TOPIC, name) for name in wanted if name in there]
        told = {
            resource.name: future.result(timeout=TIMEOUT)
            for resource, future in admin.describe_configs(asked).items()
        }
    except (KafkaException, StepError, OSError) as error:
        yield Finding(area, "warning", f"Kafka can't be asked: {error}", "`coinmesh logs kafka`")
        return
    wrong = 0
    for name, topic in wanted.items():
        problems: list[str] = []
        if name not in told:
            problems.append("missing")
        else:
            partitions = len(there[name].partitions)
            if partitions != topic.partitions:
                problems.append(f"{partitions} partitions instead of {topic.partitions}")
            problems += [
                f"{key}={told[name][key].value} instead of {value}"
                for key, value in topic.config.items()
                if told[name][key].value != value
            ]
        if problems:
            wrong += 1
            yield Finding(area, "bad", f"{name}: {', '.join(problems)}", do)
    if not wrong:
        yield Finding(area, "ok", f"{len(wanted)} as the contracts say")


def schemas(mesh: Mesh) -> Iterator[Finding]:
    """Check that every contract is registered under its subject."""
    endpoint = mesh.endpoints()["registry"]
    missing: list[str] = []
    subjects = [contract.subject for contract in contracts()]
    try:
        with http_client(endpoint, mesh.home.tls, TIMEOUT) as client:
            for subject in subjects:
                path = f"/subjects/{quote(subject, safe='')}/versions/latest"
                answer = client.get(path)
                if answer.status_code == HTTPStatus.NOT_FOUND:
                    missing.append(subject)
                else:
                    answer.raise_for_status()
    except (httpx.HTTPError, OSError) as error:
        what = f"the registry can't be asked: {error}"
        yield Finding(
            "schemas", "warning", what, "`coinmesh logs registry` and `coinmesh logs apicurio`"
        )
        return
    for subject in missing:
        yield Finding("schemas", "bad", f"{subject} isn't registered", "`coinmesh deploy schemas`")
    if not missing:
        yield Finding("schemas", "ok", f"{len(subjects)} are registered")


def growth(mesh: Mesh, report: Report, now: float) -> Iterator[Finding]:
    """Estimate the data's growth since the previous check and when the disk will be full."""
    if report.disk is None:
        return
    path = mesh.home.run / "doctor.json"
    used = report.disk["data_bytes"] + report.disk["logs_bytes"]
    try:
        before: dict[str, Any] = json.loads(path.read_text())
        hours, grown = (now - before["time"]) / 3600, used - before["used"]
    except (OSError, ValueError, KeyError, TypeError):
        hours, grown = 0.0, 0
    if hours < 1 / 60:
        what = f"{used >> 20} MiB; its growth is told by the next look, a minute from now"
        yield Finding("growth", "ok", what)
        if hours:
            return
    else:
        pace = grown / hours
        what = f"{used >> 20} MiB, {pace / (1 << 20):+.0f} MiB/h in the last {hours:.1f} h"
        days = report.disk["free_bytes"] / pace / 24 if pace > 0 else float("inf")
        do = "shorten the topics' retention, or move COINMESH_HOME" if days < 2 else ""
        full = f"; full in {days:.1f} days" if days < 30 else ""
        yield Finding("growth", "warning" if do else "ok", what + full, do)
    if mesh.home.run.is_dir():
        write_atomically(path, json.dumps({"time": now, "used": used}), 0o600)
