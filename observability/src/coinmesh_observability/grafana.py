"""Grafana's provisioning: data sources, the dashboards' directory, and alerts as Grafana rules.

https://grafana.com/docs/grafana/latest/administration/provisioning/
"""

from itertools import groupby
from typing import Any

from coinmesh_observability.alerts import Alert, alerts

PROMETHEUS, JAEGER = "coinmesh-prometheus", "coinmesh-jaeger"
#: Grafana evaluates a group of rules at this interval.
INTERVAL = "30s"


def files(prometheus_url: str, jaeger_url: str) -> dict[str, Any]:
    """Return the provisioning files by path."""
    groups = groupby(alerts(), key=lambda alert: alert.group)
    return {
        "provisioning/datasources/coinmesh.yaml": {
            "apiVersion": 1,
            "datasources": datasources(prometheus_url, jaeger_url),
        },
        "provisioning/dashboards/coinmesh.yaml": {
            "apiVersion": 1,
            "providers": [
                {
                    "name": "coinmesh",
                    "folder": "Coinmesh",
                    "type": "file",
                    "allowUiUpdates": False,
                    "options": {"path": "/etc/grafana/dashboards/coinmesh"},
                }
            ],
        },
        "provisioning/alerting/coinmesh.yaml": {
            "apiVersion": 1,
            "groups": [
                {
                    "orgId": 1,
                    "name": name,
                    "folder": "Coinmesh",
                    "interval": INTERVAL,
                    "rules": [rule(alert) for alert in members],
                }
                for name, members in groups
            ],
        },
    }


def datasources(prometheus_url: str, jaeger_url: str) -> list[dict[str, Any]]:
    """Return the data sources: Prometheus, with links from exemplars to traces, and Jaeger.

    The client certificates come from Grafana's file system and are not written here.
    """
    tls = {
        "jsonData": {"tlsAuth": True, "tlsAuthWithCACert": True},
        "secureJsonData": {
            "tlsCACert": "$__file{/etc/coinmesh/tls/ca.crt}",
            "tlsClientCert": "$__file{/etc/coinmesh/tls/tls.crt}",
            "tlsClientKey": "$__file{/etc/coinmesh/tls/tls.key}",
        },
    }
    to_traces = {"name": "trace_id", "datasourceUid": JAEGER}
    found: list[dict[str, Any]] = [
        {
            "name": "Coinmesh metrics",
            "uid": PROMETHEUS,
            "type": "prometheus",
            "access": "proxy",
            "url": prometheus_url,
            "isDefault": True,
            "jsonData": {"httpMethod": "POST", "exemplarTraceIdDestinations": [to_traces]},
        },
        {
            "name": "Coinmesh traces",
            "uid": JAEGER,
            "type": "jaeger",
            "access": "proxy",
            "url": jaeger_url,
            "jsonData": {},
        },
    ]
    for source in found:
        if source["url"].startswith("https://"):
            source["jsonData"] |= tls["jsonData"]
            source["secureJsonData"] = tls["secureJsonData"]
    return found


def rule(alert: Alert) -> dict[str, Any]:
    """Return an alert as a Grafana rule: a query, and the condition that it returns anything."""
    window = {"from": 600, "to": 0}
    made = alert.rule()
    return {
        "uid": f"coinmesh-{alert.name.lower()}",
        "title": alert.name,
        "condition": "B",
        "for": alert.lasts,
        "noDataState": "OK",
        "execErrState": "Error",
        "labels": made["labels"],
        # In Grafana, $value is a text about all queries.
        "annotations": {
            name: text.replace("$value", "$values.A.Value")
            for name, text in made["annotations"].items()
        },
        "data": [
            {
                "refId": "A",
                "relativeTimeRange": window,
                "datasourceUid": PROMETHEUS,
                "model": {"refId": "A", "expr": alert.expr, "instant": True},
            },
            {
                "refId": "B",
                "relativeTimeRange": window,
                "datasourceUid": "__expr__",
                # The query's comparison has filtered: any remaining value, 0 included, is an alert.
                "model": {"refId": "B", "type": "math", "expression": "$A || 1"},
            },
        ],
    }
