"""Dashboards as data, and their JSON for Grafana 10 and later.

https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

SCHEMA = 39
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS, HEIGHT = 24, 8


@dataclass(frozen=True)
class Panel:
    """One graph. `queries` are PromQL by legend; `unit` is Grafana's name of a unit.

    `limit` draws a line at a value that must not be exceeded. `exemplars` shows points with links
    to traces.
    """

    title: str
    unit: str
    queries: dict[str, str]
    kind: str = "timeseries"
    width: int = 12
    limit: float | None = None
    stacked: bool = False
    exemplars: bool = False
    text: str = ""

    def model(self, number: int, x: int, y: int) -> dict[str, Any]:
        """Return the panel as JSON, at a position in the grid."""
        thresholds: list[dict[str, Any]] = [{"color": "green", "value": None}]
        if self.limit is not None:
            thresholds.append({"color": "red", "value": self.limit})
        custom: dict[str, Any] = {"lineWidth": 1, "fillOpacity": 10, "showPoints": "never"}
        if self.stacked:
            custom["stacking"] = {"mode": "normal", "group": "A"}
        if self.limit is not None:
            custom["thresholdsStyle"] = {"mode": "line"}
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.text,
            "datasource": DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": HEIGHT},
            "fieldConfig": {
                "defaults": {
                    "unit": self.unit,
                    "min": 0,
                    "thresholds": {"mode": "absolute", "steps": thresholds},
                    **({"custom": custom} if self.kind == "timeseries" else {}),
                },
                "overrides": [],
            },
            "options": {"tooltip": {"mode": "multi", "sort": "desc"}}
            if self.kind == "timeseries"
            else {"reduceOptions": {"calcs": ["lastNotNull"]}},
            "targets": [
                {
                    "refId": chr(ord("A") + index),
                    "datasource": DATASOURCE,
                    "expr": expr,
                    "legendFormat": legend,
                    "range": True,
                    "exemplar": self.exemplars,
                }
                for index, (legend, expr) in enumerate(self.queries.items())
            ],
        }


@dataclass(frozen=True)
class Dashboard:
    """Rows of panels; `variables` are selectable labels by name, each with a PromQL selector."""

    uid: str
    title: str
    text: str
    rows: dict[str, list[Panel]]
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def panels(self) -> Iterator[Panel]:
        """Yield all panels in order."""
        for row in self.rows.values():
            yield from row

    def model(self) -> dict[str, Any]:
        """Return the dashboard as JSON."""
        placed: list[dict[str, Any]] = []
        y = 0
        for title, row in self.rows.items():
            head = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
            placed.append(
                {
                    "id": len(placed) + 1,
                    "type": "row",
                    "title": title,
                    "gridPos": head,
                    "collapsed": False,
                    "panels": [],
                }
            )
            x, y = 0, y + 1
            for panel in row:
                if x + panel.width > COLUMNS:
                    x, y = 0, y + HEIGHT
                placed.append(panel.model(len(placed) + 1, x, y))
                x += panel.width
            y += HEIGHT
        return {
            "uid": self.uid,
            "title": f"Coinmesh / {self.title}",
            "description": self.text,
            "tags": ["coinmesh"],
            "schemaVersion": SCHEMA,
            "editable": False,
            "refresh": "10s",
            "time": {"from": "now-1h", "to": "now"},
            "links": [
                {
                    "type": "dashboards",
                    "tags": ["coinmesh"],
                    "title": "Coinmesh",
                    "asDropdown": True,
                }
            ],
            "templating": {
                "list": [
                    {
                        "name": "datasource",
                        "label": "Prometheus",
                        "type": "datasource",
                        "query": "prometheus",
                    },
                    *(self._variable(name, source) for name, source in self.variables.items()),
                ]
            },
            "annotations": {
                "list": [
                    {
                        "name": "alerts",
                        "datasource": DATASOURCE,
                        "enable": True,
                        "iconColor": "red",
                        "expr": 'ALERTS{alertstate="firing"}',
                        "titleFormat": "{{alertname}}",
                        "textFormat": "{{instance}}",
                    }
                ]
            },
            "panels": placed,
        }

    @staticmethod
    def _variable(name: str, source: str) -> dict[str, Any]:
        return {
            "name": name,
            "type": "query",
            "datasource": DATASOURCE,
            "query": {"query": f"label_values({source}, {name})", "refId": name},
            "refresh": 2,
            "includeAll": True,
            "allValue": ".*",
            "multi": True,
            "current": {"text": "All", "value": "$__all"},
        }
