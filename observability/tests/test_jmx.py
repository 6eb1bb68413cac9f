"""Of the JVMs' beans only what is looked at is shown: all of them would be tens of thousands."""

import itertools
import re

import pytest

from coinmesh_local.paths import CHECKOUT, LOCAL
from coinmesh_observability.alerts import alerts, recordings
from coinmesh_observability.dashboards import ALL

COMPONENTS = ("kafka", "cassandra")
RULE = re.compile(r"^  - pattern: (.+)\n    name: (\S+)$", re.MULTILINE)
ALTERNATIVES = re.compile(r"(?<!\\)\((?!\?)([^()]*)\)")


def configured(component: str) -> set[str]:
    """The metrics that an exporter's rules can make, `$1` in a name being each alternative."""
    text = (LOCAL / "config" / f"{component}-jmx.yml").read_text().replace("$$", "$")
    found: set[str] = set()
    rules = RULE.findall(text)
    assert len(rules) == text.count("pattern:")
    for pattern, template in rules:
        groups = [group.split("|") for group in ALTERNATIVES.findall(pattern)]
        for chosen in itertools.product(*groups):
            name = re.sub(r"\$(\d)", lambda m, of=chosen: of[int(m[1]) - 1], template)
            found.add(name.lower())
    return found


def looked_at() -> str:
    """All queries of dashboards, alerts and recorded rules, and the operators' command."""
    exprs = [expr for each in ALL for panel in each.panels for expr in panel.queries.values()]
    exprs += [alert.expr for alert in alerts()]
    exprs += [rule["expr"] for rule in recordings()]
    exprs += [path.read_text() for path in (CHECKOUT / "cli" / "src").rglob("*.py")]
    return "\n".join(exprs)


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_metric_of_a_jmx_exporter_is_looked_at(component: str) -> None:
    names = configured(component)
    assert len(names) > 5
    text = looked_at()
    assert {name for name in names if not re.search(rf"\b{name}\b", text)} == set()


def test_alternatives_in_a_rule_are_metrics_of_their_own() -> None:
    assert {"kafka_topic_messagesin_total", "kafka_topic_bytesout_total"} <= configured("kafka")
    assert "cassandra_table_livesstablecount" in configured("cassandra")
