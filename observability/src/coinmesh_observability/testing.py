"""Alert test cases: series that make an alert fire, and similar ones that must not.

The cases of a service's alerts are in `tests/rule_cases.py` beside its manifest: `CASES`, one per
alert, and `OTHERS`, further ones of alerts with more than one reason to fire.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from coinmesh_manifests.discovery import CHECKOUT, discover

Series = dict[str, str]


def held(value: float, samples: int = 40) -> str:
    """Return a constant series in promtool's notation."""
    return f"{value}+0x{samples}"


def growing(step: float, samples: int = 40) -> str:
    """Return a counter that grows by `step` every 30 s."""
    return f"0+{step}x{samples}"


def steps(*values: float) -> str:
    """Return a series from its values."""
    return " ".join(map(str, values))


@dataclass(frozen=True)
class Case:
    """Series by name, the evaluation time, and the expected labels of the alert.

    Without firing series, only the quiet ones are tested.
    """

    fires: Series
    quiet: Series
    at: str = "20m"
    labels: str = ""


def one(series: str, fires: str, quiet: str, at: str = "20m") -> Case:
    """Return a case of one series."""
    return Case({series: fires}, {series: quiet}, at)


class Cases(NamedTuple):
    """The cases of a file: one per alert, and further ones."""

    first: Mapping[str, Case]
    others: Sequence[tuple[str, Case]] = ()


def service_cases(tree: Path = CHECKOUT) -> dict[Path, Cases]:
    """Return the cases beside a tree's manifests, by file; manifests without alerts have none."""
    files = {
        manifest.path.parent / "tests" / "rule_cases.py"
        for manifest in discover(tree).values()
        if manifest.alerts
    }
    return {path: _read(path) for path in sorted(files) if path.is_file()}


def without_cases(tree: Path = CHECKOUT) -> list[str]:
    """Return a line for each manifest alert without a case, and for each case without an alert."""
    cases = service_cases(tree)
    alerts = {
        (manifest.path.parent / "tests" / "rule_cases.py", alert): manifest.name
        for manifest in discover(tree).values()
        for alert in manifest.alerts
    }
    tested = {
        (path, alert)
        for path, found in cases.items()
        for alert in (*found.first, *(name for name, _ in found.others))
    }
    return [
        *(
            f"alert {alert} of {name} has no case in {path.relative_to(tree)}"
            for (path, alert), name in alerts.items()
            if path not in cases or alert not in cases[path].first
        ),
        *(
            f"{path.relative_to(tree)}: no manifest beside it has the alert {alert}"
            for path, alert in sorted(tested - set(alerts))
        ),
    ]


def _read(path: Path) -> Cases:
    spec = importlib.util.spec_from_file_location(f"rule_cases_{path.parent.parent.name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Cases(module.CASES, getattr(module, "OTHERS", ()))
