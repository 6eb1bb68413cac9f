"""What dashboards, rules and docs speak of is there in the running mesh."""

import re
import secrets
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from coinmesh_contracts.market.v1 import market_service_pb2, market_service_pb2_grpc
from coinmesh_local.paths import CHECKOUT
from coinmesh_local.testing import eventually
from coinmesh_observability.alerts import alerts, recordings
from coinmesh_observability.dashboards import dashboards

pytestmark = pytest.mark.e2e

#: What in PromQL is no metric: selectors, windows, lists of labels, functions, operators.
ASIDE = re.compile(
    r"\{[^}]*\}|\[[^]]*\]|\b(?:by|on|ignoring|group_left|group_right|without) \([^)]*\)"
    r"|\b[a-z_0-9]+(?=\()|\b(?:and|or|unless|sum|min|max|avg|count)\b"
)
METRIC = re.compile(r"(?<![\w.:])[a-zA-Z_:][\w:]*")
#: Names in prose are metrics if they begin so, and nothing of ours in Python has that name.
TOLD = re.compile(
    r"\b(?:coinmesh|process|jvm|kafka|cassandra|redis|envoy|ratelimit|prometheus|alertmanager)_"
    r"[a-z][a-z0-9_]*[a-z0-9]\b(?!_)"
)
DEFINED = re.compile(r"^ *(?:async )?def (\w+)", re.MULTILINE)
#: Alerts that the tests bring about: captures are played from their beginning at twenty times their
#: speed, on the machine that runs the tests: batches, bars and calls take longer for many minutes.
PROVOKED = {"ErrorBudgetBurnsFast", "ErrorBudgetBurnsSlowly", "BatchesSlow"}
PARTS = ("_bucket", "_count", "_sum", "_total")


def family(name: str) -> str:
    """A metric's name without what its samples add to it."""
    return next((name.removesuffix(part) for part in PARTS if name.endswith(part)), name)


def metrics_in(promql: str) -> set[str]:
    """The families that a query names, labels aside."""
    return {family(name) for name in METRIC.findall(ASIDE.sub(" ", promql))}


@pytest.fixture
def prometheus(last_run: Any) -> Iterator[httpx.Client]:
    """Prometheus, after it has seen every component at work."""
    run, mesh = last_run, last_run.mesh
    mesh.require("prometheus", "alertmanager", "redis-exporter", "component-exporter")
    mesh.require("audit-anchor", "jaeger", "ratelimit", "log-shipper")
    with grpc.secure_channel(mesh.endpoints["grpc"], mesh.user_credentials()) as channel:
        stub = market_service_pb2_grpc.MarketServiceStub(channel)
        stub.ListInstruments(market_service_pb2.ListInstrumentsRequest())
    # Logging in is what everybody has a quota for.
    guess = {"apiKey": "cm_nobody_guess"}  # pragma: allowlist secret
    assert run.rest.post("/v1/session", json=guess).status_code in (401, 429)
    for _ in range(2):
        for instrument in run.instruments.values():
            run.rest.get(f"/v1/instruments/{instrument}/bars:view", params={"interval": "1s"})
            run.rest.get(f"/v1/instruments/{instrument}/ticker")
    url = mesh.endpoints["prometheus"]
    with httpx.Client(base_url=url, verify=mesh.tls("prometheus"), timeout=30) as client:
        yield client


def series(client: httpx.Client, query: str) -> list[Any]:
    """What Prometheus answers now."""
    answer = client.get("/api/v1/query", params={"query": query}).json()
    assert answer["status"] == "success", f"{query}: {answer.get('error')}"
    return answer["data"]["result"]


def test_every_component_that_runs_is_scraped(run: Any, prometheus: httpx.Client) -> None:
    running = {name for name, row in run.mesh.status().items() if row["state"] == "ready"}
    shown = {target["instance"] for target in run.mesh.mesh.metrics_targets()} & running
    assert {"kafka", "cassandra", "envoy", "redis-exporter", "query-gateway-2"} <= shown
    for instance in shown:
        eventually(
            lambda one=instance: series(prometheus, f'up{{instance="{one}"}} == 1'),
            f"{instance} is scraped",
            timeout=60,
        )


def test_components_that_show_nothing_themselves_are_told_of(
    run: Any, prometheus: httpx.Client
) -> None:
    told = {"openbao", "seaweedfs", "jaeger", "opensearch", "log-shipper"}
    assert not told & {target["job"] for target in run.mesh.mesh.metrics_targets()}
    use = "cpu_seconds_total", "resident_bytes", "open_fds", "max_fds", "restarts_total"
    for name in told:
        eventually(
            lambda one=name: series(
                prometheus, f'coinmesh_component_ready{{component="{one}"}} == 1'
            ),
            f"{name} is told of",
            timeout=60,
        )
        for each in use:
            labels = f'component="{name}",replica="{name}"'
            assert series(prometheus, f"coinmesh_component_{each}{{{labels}}}"), (name, each)


def test_every_query_of_every_dashboard_finds_a_series(run: Any, prometheus: httpx.Client) -> None:
    queries = {
        f"{dashboard.uid} / {panel.title}: {expr}": filled(expr)
        for dashboard in dashboards()
        for panel in dashboard.panels
        for expr in panel.queries.values()
    }
    assert len(queries) > 100
    empty = dict(queries)

    def none_is_empty() -> bool:
        for name, query in list(empty.items()):
            if series(prometheus, query):
                del empty[name]
        return not empty

    # A rate needs two scrapes, a counter its first event.
    try:
        eventually(none_is_empty, "every query finds a series")
    except AssertionError:
        raise AssertionError("\n".join(empty)) from None


def filled(expr: str) -> str:
    """A panel's query with Grafana's variables filled in, as for everything and a short while."""
    expr = expr.replace("$__rate_interval", "1m")
    return re.sub(r"\$(job|instance)\b", ".*", expr)


def test_every_metric_that_is_spoken_of_exists(prometheus: httpx.Client) -> None:
    metadata = prometheus.get("/api/v1/metadata").json()["data"]
    names = prometheus.get("/api/v1/label/__name__/values").json()["data"]
    there = {family(name) for name in (*metadata, *names)}
    asked = queries()
    told = {str(page.relative_to(CHECKOUT)): metrics_told(page) for page in pages()}
    assert "redis_up" in asked["RedisDown"]
    assert "envoy_cluster_grpc" in told["gateway/README.md"]
    missing = {
        where: sorted(found - there) for where, found in (asked | told).items() if found - there
    }
    assert missing == {}


@pytest.mark.parametrize("job", ["kafka", "cassandra"])
def test_of_the_jvms_beans_nothing_is_scraped_that_nobody_asks_for(
    prometheus: httpx.Client, job: str
) -> None:
    found = series(prometheus, f'count by (__name__) ({{job="{job}",__name__=~"{job}_.*"}})')
    scraped = {family(each["metric"]["__name__"]) for each in found}
    assert len(scraped) > 5
    assert scraped <= set().union(*queries().values())


def queries() -> dict[str, set[str]]:
    """The metrics that panels, alerts and recorded rules ask for, by who asks."""
    found = {
        f"{dashboard.uid} / {panel.title}": set().union(*map(metrics_in, panel.queries.values()))
        for dashboard in dashboards()
        for panel in dashboard.panels
    }
    found |= {alert.name: metrics_in(alert.expr) for alert in alerts()}
    for rule in recordings():
        found.setdefault(str(rule["record"]), set()).update(metrics_in(rule["expr"]))
    return found


def metrics_told(page: Path) -> set[str]:
    """The metrics that a page of the documentation names."""
    return {family(name) for name in set(TOLD.findall(page.read_text())) - of_ours()}


@cache
def of_ours() -> set[str]:
    """The names of packages, modules and functions."""
    sources = [*CHECKOUT.glob("*/src/**/*.py"), *CHECKOUT.glob("*/*/src/**/*.py")]
    names = {name for path in sources for name in (path.stem, path.parent.name)}
    return names | {name for path in sources for name in DEFINED.findall(path.read_text())}


def pages() -> list[Path]:
    """The documentation."""
    found = [CHECKOUT / "README.md", *CHECKOUT.glob("docs/**/*.md")]
    for folder in ("libs", "services", "jobs", "gateway", "observability", "deploy", "cli"):
        found += [p for p in CHECKOUT.glob(f"{folder}/**/README.md") if ".staging" not in p.parts]
    return found


def test_a_sampled_calls_duration_leads_to_its_trace(run: Any, prometheus: httpx.Client) -> None:
    trace = secrets.token_hex(16)
    headers = {"traceparent": f"00-{trace}-{secrets.token_hex(8)}-01"}
    instrument = next(iter(run.instruments.values()))

    def stored() -> bool:
        run.rest.get(f"/v1/instruments/{instrument}/ticker", headers=headers).raise_for_status()
        query = {"query": "coinmesh_rpc_seconds_bucket", "start": "0", "end": "9999999999"}
        found = prometheus.get("/api/v1/query_exemplars", params=query).json()["data"]
        return any(
            exemplar["labels"].get("trace_id") == trace
            for each in found
            for exemplar in each["exemplars"]
        )

    eventually(stored, "Prometheus keeps the exemplar", timeout=60)


def test_no_alert_fires_or_is_about_to_in_a_healthy_mesh(
    run: Any, prometheus: httpx.Client
) -> None:
    groups = prometheus.get("/api/v1/rules").json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert {alert.name for alert in alerts()} <= {rule["name"] for rule in rules}
    active: list[dict[str, Any]] = []

    def quiet() -> bool:
        found = prometheus.get("/api/v1/alerts").json()["data"]["alerts"]
        active[:] = [one for one in found if one["labels"]["alertname"] not in PROVOKED]
        return not active

    # What was started last may still be on its way; what is wrong stays.
    try:
        eventually(quiet, "no alert is pending or firing")
    except AssertionError:
        raise AssertionError("\n".join(map(str, active))) from None
    failing = {rule["name"]: rule["lastError"] for rule in rules if rule["health"] == "err"}
    assert failing == {}
