"""Each alert fires when it should and only then, and says where its page is."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from platform_cases import BURNS, CASES, OTHERS

from coinmesh_local.provision import system
from coinmesh_manifests.discovery import discover
from coinmesh_observability import grafana
from coinmesh_observability.alerts import RUNBOOK, Alert, alerts, objectives, rule_files
from coinmesh_observability.dashboards import dashboards
from coinmesh_observability.json_files import write
from coinmesh_observability.prometheus import Settings, Target, configuration
from coinmesh_observability.testing import Case, service_cases, without_cases

CHECKOUT = Path(__file__).resolve().parents[2]
SECTION = re.compile(r"^### (\S+)\n(.*?)(?=^#|\Z)", re.MULTILINE | re.DOTALL)
Promtool = Callable[..., None]


@pytest.fixture(scope="module")
def promtool(tmp_path_factory: pytest.TempPathFactory) -> Promtool:
    """`promtool(files, command, …)`: writes files beside the rules, must succeed."""
    system.ensure("promtool", lambda _: None)
    folder = tmp_path_factory.mktemp("prometheus")
    for name, content in rule_files().items():
        write(folder / "rules" / f"{name}.json", content)
    (group,) = rule_files()["objectives"]["groups"]
    for slo in objectives():
        own = [rule for rule in group["rules"] if rule["labels"]["slo"] == slo]
        content = {"groups": [{"name": "objectives", "rules": own}]}
        write(folder / "rules" / f"objectives-{slo}.json", content)

    def run(files: dict[str, Any], *command: str) -> None:
        for name, content in files.items():
            write(folder / name, content)
        done = subprocess.run(
            ["promtool", *command], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    return run


def expectation(name: str, case: Case, fires: bool) -> dict[str, Any]:
    """A test of promtool: whether the alert fires at that time."""
    found = [{"labels": "{}", "value": 1}] if fires else []
    series = case.fires if fires else case.quiet
    which = f'alertname="{name}",alertstate="firing"' + (f",{case.labels}" if case.labels else "")
    return {
        "interval": "30s",
        "name": f"{name} {case.labels} {'fires' if fires else 'stays quiet'}",
        "input_series": [{"series": key, "values": values} for key, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f"count(ALERTS{{{which}}})",
                "eval_time": case.at,
                "exp_samples": found,
            }
        ],
    }


@pytest.mark.component
def test_each_alert_fires_in_its_case_and_not_in_the_other(promtool: Promtool) -> None:
    groups = {alert.name: alert.group for alert in alerts()}
    tests: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    beside = service_cases().values()
    own = [pair for found in beside for pair in (*found.first.items(), *found.others)]
    for name, case in [*CASES.items(), *OTHERS, *own]:
        rules = (groups[name],)
        if rules == ("slo",):
            # Alerts compare values of one objective: the recordings of others are left out.
            slo = re.fullmatch(r'slo="(.*)"', case.labels)
            rules = (f"objectives-{slo[1]}" if slo else "objectives", "slo")
        told = tests.setdefault(rules, [])
        told += [expectation(name, case, True)] if case.fires else []
        told += [expectation(name, case, False)]
    # promtool runs every rule that a file names in all of its tests.
    files = {
        f"{'-'.join(rules)}.json": {
            "rule_files": [f"rules/{name}.json" for name in rules],
            "evaluation_interval": "30s",
            "tests": members,
        }
        for rules, members in tests.items()
    }
    promtool(files, "test", "rules", *files)


@pytest.mark.component
def test_a_case_that_is_wrong_is_noticed(promtool: Promtool) -> None:
    case: Case = CASES["TargetDown"]
    wrong = expectation("TargetDown", Case(case.quiet, {}), True)
    content = {"rule_files": ["rules/mesh.json"], "evaluation_interval": "30s", "tests": [wrong]}
    with pytest.raises(AssertionError, match="TargetDown"):
        promtool({"wrong.json": content}, "test", "rules", "wrong.json")


@pytest.mark.component
def test_the_configuration_is_one_that_prometheus_takes(promtool: Promtool, tmp_path: Path) -> None:
    targets = [
        Target(job="kafka", instance=f"kafka-{n}", url=f"http://127.0.0.1:{n}/metrics")
        for n in (1, 2)
    ]
    targets.append(Target(job="envoy", instance="envoy", url="http://127.0.0.1:3/stats?usedonly"))
    content = configuration(Settings(scrape_interval="1s"), targets, "127.0.0.1:4")
    first, second = content["scrape_configs"]
    assert [one["targets"] for one in first["static_configs"]] == [["127.0.0.1:1"], ["127.0.0.1:2"]]
    assert second["params"] == {"usedonly": [""]}
    promtool({"prometheus.json": content}, "check", "config", "prometheus.json")


def test_each_alert_has_its_cases() -> None:
    services = {alert for manifest in discover().values() for alert in manifest.alerts}
    assert {alert.name for alert in alerts()} - services == set(CASES)
    assert without_cases() == []
    burning = {alert.name for alert in alerts() if alert.group == "slo"}
    assert {(name, slo) for name in burning for slo in objectives()} == set(BURNS)


def test_an_alert_of_a_service_without_cases_is_named(tmp_path: Path) -> None:
    alert = '[alerts.Slow]\nexpr = "slow == 1"\nseverity = "page"\nsummary = "slow"\n'
    service = tmp_path / "services" / "a"
    (service / "tests").mkdir(parents=True)
    (service / "service.toml").write_text(f'kind = "service"\ndescription = "a"\n{alert}')
    place = "services/a/tests/rule_cases.py"
    assert without_cases(tmp_path) == [f"alert Slow of a has no case in {place}"]
    (tmp_path / place).write_text("CASES = {'Slow': None, 'Gone': None}\n")
    assert without_cases(tmp_path) == [f"{place}: no manifest beside it has the alert Gone"]
    assert service_cases(tmp_path)[tmp_path / place].first == {"Slow": None, "Gone": None}


def runbook() -> dict[str, str]:
    """The runbook's sections by their anchor."""
    text = (CHECKOUT / RUNBOOK).read_text()
    return {name.lower(): body for name, body in SECTION.findall(text)}


def test_each_alert_leads_to_a_section_that_says_what_to_do() -> None:
    wanted = {
        alert.rule()["annotations"]["runbook"].replace("{{ $labels.slo }}", slo): alert
        for alert in alerts()
        for slo in objectives()
    }
    sections = {f"{RUNBOOK}#{name}": body for name, body in runbook().items()}
    assert set(wanted) == set(sections)
    for link, body in sections.items():
        for part in ("Meaning", "Diagnosis", "itigation:**"):
            assert part in body, f"{link} doesn't say {part}"


def test_an_alert_has_a_known_severity_and_a_summary() -> None:
    for alert in alerts():
        assert alert.severity in ("page", "ticket"), alert.name
        assert alert.summary, alert.name


def test_dashboards_have_ids_of_their_own_and_templated_sources() -> None:
    models = [json.loads(json.dumps(dashboard.model())) for dashboard in dashboards()]
    assert len({model["uid"] for model in models}) == len(models)
    for model in models:
        panels = [panel for panel in model["panels"] if panel["type"] != "row"]
        assert len({panel["id"] for panel in model["panels"]}) == len(model["panels"])
        cells = [
            (x, y)
            for p in model["panels"]
            for x in range(p["gridPos"]["x"], p["gridPos"]["x"] + p["gridPos"]["w"])
            for y in range(p["gridPos"]["y"], p["gridPos"]["y"] + p["gridPos"]["h"])
        ]
        assert len(cells) == len(set(cells)), f"panels of {model['uid']} overlap"
        assert max(x for x, _ in cells) < 24
        for panel in panels:
            assert panel["targets"], panel["title"]
            assert {t["datasource"]["uid"] for t in panel["targets"]} == {"${datasource}"}


def test_grafanas_alerts_are_the_same_as_prometheus() -> None:
    files = grafana.files("https://prometheus:9090", "https://jaeger:16686")
    groups = files["provisioning/alerting/coinmesh.yaml"]["groups"]
    rules = {rule["title"]: rule for group in groups for rule in group["rules"]}
    assert set(rules) == {alert.name for alert in alerts()}
    one: Alert = alerts()[0]
    assert rules[one.name]["data"][0]["model"]["expr"] == one.expr
    sources = files["provisioning/datasources/coinmesh.yaml"]["datasources"]
    uids = {source["uid"] for source in sources}
    (to_traces,) = sources[0]["jsonData"]["exemplarTraceIdDestinations"]
    assert to_traces["datasourceUid"] in uids
    assert all(source["jsonData"]["tlsAuth"] for source in sources)
