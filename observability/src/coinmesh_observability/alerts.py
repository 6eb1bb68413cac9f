"""Prometheus alert rules from `alerts.toml`, `slos.toml` and the manifests."""

import tomllib
from functools import cache
from pathlib import Path
from string import Template
from typing import Any

from pydantic import BaseModel, ConfigDict

from coinmesh_manifests.discovery import discover

#: The page with a section per alert, relative to the repository.
RUNBOOK = "docs/operations/runbook.md"
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
#: With fewer events per hour a single failure would page.
FEWEST_EVENTS = 30
HERE = Path(__file__).parent


class Alert(BaseModel):
    """One alert; `severity` is page (now) or ticket (in working hours)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    group: str
    expr: str
    #: How long `expr` must hold, as a Prometheus duration.
    lasts: str = "0s"
    severity: str
    summary: str
    section: str = ""

    def rule(self) -> dict[str, Any]:
        """Return the Prometheus rule."""
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.lasts,
            "labels": {"severity": self.severity},
            "annotations": {
                "summary": self.summary,
                "runbook": f"{RUNBOOK}#{self.section or self.name.lower()}",
            },
        }


class Objective(BaseModel):
    """A service level objective, with the rates over `$w` of all events and of bad ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    promise: str
    objective: float
    bad: str
    total: str


@cache
def objectives() -> dict[str, Objective]:
    """Return the objectives by name."""
    table = tomllib.loads((HERE / "slos.toml").read_text())
    return {name: Objective(**each) for name, each in table.items()}


@cache
def alerts() -> tuple[Alert, ...]:
    """Return all alerts: the mesh's, each service's under its name, those of the objectives."""
    table = tomllib.loads((HERE / "alerts.toml").read_text())
    found = [
        Alert(name=name, group=group, **each)
        for group, members in table.items()
        for name, each in members.items()
    ]
    own = [
        Alert(name=alert, group=name, **each.model_dump())
        for name, manifest in discover().items()
        for alert, each in manifest.alerts.items()
    ]
    return (*found, *own, *burn_alerts())


def burns(factor: float, window: str) -> str:
    """Return an expression for a burn rate above `factor` times the budget over the window."""
    return f"coinmesh:slo_bad:ratio{window} > on (slo) ({factor:g} * coinmesh:slo_budget)"


def burn_alerts() -> list[Alert]:
    """Return a paging and a ticket alert, each for every objective.

    The short window of each pair resolves an alert soon after recovery.
    """

    def both(factor: float, long: str, short: str) -> str:
        return f"({burns(factor, long)} and on (slo) {burns(factor, short)})"

    enough = f"and on (slo) coinmesh:slo_events:increase1h > {FEWEST_EVENTS}"
    share = "{{ $labels.slo }}: {{ $value | humanizePercentage }} of events break the promise"
    section = "slo-{{ $labels.slo }}"
    return [
        Alert(
            name="ErrorBudgetBurnsFast",
            group="slo",
            expr=f"({both(14.4, '1h', '5m')} or {both(6, '6h', '30m')}) {enough}",
            lasts="1m",
            severity="page",
            summary=share,
            section=section,
        ),
        Alert(
            name="ErrorBudgetBurnsSlowly",
            group="slo",
            expr=f"({both(3, '1d', '2h')} or {both(1, '3d', '6h')}) {enough}",
            lasts="15m",
            severity="ticket",
            summary=share,
            section=section,
        ),
    ]


def recordings() -> list[dict[str, Any]]:
    """Return recording rules by objective: budget, hourly events, and bad share per window."""
    rules: list[dict[str, Any]] = []
    for name, each in objectives().items():

        def record(metric: str, expr: str, name: str = name) -> None:
            rules.append({"record": metric, "expr": expr, "labels": {"slo": name}})

        record("coinmesh:slo_budget", f"vector({1 - each.objective:g})")
        total = Template(each.total)
        record("coinmesh:slo_events:increase1h", f"3600 * ({total.substitute(w='1h')})")
        for window in WINDOWS:
            bad = Template(each.bad).substitute(w=window)
            record(
                f"coinmesh:slo_bad:ratio{window}", f"({bad}) / ({total.substitute(w=window)} > 0)"
            )
    return rules


def rule_files() -> dict[str, dict[str, Any]]:
    """Return the rule files by name."""
    groups: dict[str, list[dict[str, Any]]] = {"objectives": recordings()}
    for alert in alerts():
        groups.setdefault(alert.group, []).append(alert.rule())
    return {name: {"groups": [{"name": name, "rules": rules}]} for name, rules in groups.items()}
