"""Each manifest's service has a dashboard, of metrics that its process really has."""

import asyncio
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from coinmesh_local import component_exporter
from coinmesh_local.kinds import definitions
from coinmesh_local.provision import system
from coinmesh_manifests.discovery import discover
from coinmesh_manifests.manifest import Manifest
from coinmesh_observability.dashboards import ALL, dashboards
from coinmesh_observability.json_files import write
from coinmesh_observability.queries import RATE
from coinmesh_observability.service_dashboards import CHASSIS, SCRAPED, of_manifest, of_manifests
from meshkit.metrics import Metrics
from meshkit.service import Running, serve
from meshkit.settings import ServiceSettings

METRIC = re.compile(r"\b([a-z_]+?)(?:_bucket)?\{([^}]*)\}")
ASKED = ("Rate", "Errors", "Duration", "CPU", "Memory", "Ready", "Warnings and errors in the log")


def selected(manifest: Manifest) -> dict[str, str]:
    """The selectors of the dashboard's queries by metric."""
    queries = [q for panel in of_manifest(manifest).panels for q in panel.queries.values()]
    found = [METRIC.findall(query) for query in queries]
    assert all(found), "a query selects no metric"
    return {name: labels for each in found for name, labels in each}


async def chassis() -> set[str]:
    """The samples of a service without logic of its own."""
    metrics, started = Metrics(), asyncio.get_running_loop().create_future()

    def add(_: object, server: Any) -> None:
        server.add_generic_rpc_handlers(())

    task = asyncio.create_task(
        serve(
            ServiceSettings(drain_grace_seconds=0.1, service_name="plain"),
            [(add, object())],
            metrics=metrics,
            on_started=started.set_result,
        )
    )
    running: Running = await started
    families = list(metrics.registry.collect())
    running.stop()
    await task
    assert families
    names = {sample.name for family in families for sample in family.samples}
    # A metric with labels has no samples before its first event.
    return names | {family.name + end for family in families for end in ("", "_total")}


def test_each_manifest_has_a_dashboard() -> None:
    models = {dashboard.uid: dashboard.model() for dashboard in dashboards()}
    for name, manifest in discover().items():
        model = models[f"service-{name}"]
        assert model["description"] == manifest.description
        titles = {panel["title"] for panel in model["panels"]}
        if manifest.kind in CHASSIS:
            assert titles >= set(ASKED)
        assert {"CPU", "Memory"} <= titles


@pytest.mark.parametrize("name", sorted(discover()))
def test_queries_select_the_service_alone(name: str) -> None:
    for metric, labels in selected(discover()[name]).items():
        label = "component" if metric.startswith("coinmesh_component_") else "job"
        assert labels.split(",")[0] == f'{label}="{name}"', metric


def test_other_dashboards_select_no_service_by_name() -> None:
    named = [
        f"{dashboard.uid}: {query}"
        for dashboard in ALL
        for panel in dashboard.panels
        for query in panel.queries.values()
        for name in discover()
        if re.search(rf'job="{name}"|component="{name}"', query)
    ]
    assert named == []


async def test_queries_name_metrics_of_the_chassis() -> None:
    exported = await chassis()
    for manifest in discover().values():
        if manifest.kind in CHASSIS:
            assert set(selected(manifest)) <= exported, manifest.name


def test_other_queries_name_metrics_of_the_exporter() -> None:
    names = set(re.findall(r'"(component_[a-z_]+)"', Path(component_exporter.__file__).read_text()))
    for manifest in discover().values():
        for metric in selected(manifest):
            if metric.startswith("coinmesh_component_"):
                stem = metric.removeprefix("coinmesh_").removesuffix("_total")
                assert stem in names, metric


def test_kinds_with_process_metrics_are_those_that_are_scraped() -> None:
    for name, manifest in discover().items():
        scraped = {one.name for one in definitions(manifest) if one.metrics is not None}
        assert (name in scraped) == (manifest.kind in SCRAPED), name


def test_new_manifest_gets_a_dashboard(tmp_path: Path) -> None:
    folder = tmp_path / "services" / "onchain-indexer"
    folder.mkdir(parents=True)
    (folder / "service.toml").write_text('kind = "service"\ndescription = "Indexes"\n')
    (dashboard,) = of_manifests(tmp_path)
    assert (dashboard.uid, dashboard.text) == ("service-onchain-indexer", "Indexes")


@pytest.mark.component
def test_queries_are_promql(tmp_path: Path) -> None:
    system.ensure("promtool", lambda _: None)
    exprs = [
        query.replace(RATE, "1m")
        for dashboard in of_manifests()
        for panel in dashboard.panels
        for query in panel.queries.values()
    ]
    rules = [{"record": f"test:query{index}", "expr": expr} for index, expr in enumerate(exprs)]
    write(tmp_path / "rules.json", {"groups": [{"name": "queries", "rules": rules}]})
    command = ["promtool", "check", "rules", "rules.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
