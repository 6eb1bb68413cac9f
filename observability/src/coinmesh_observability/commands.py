"""Commands of `coinmesh-observability`: write files for Prometheus, Alertmanager and Grafana.

All files are JSON, which is valid YAML.
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from coinmesh_observability import alertmanager as receivers
from coinmesh_observability import grafana as provisioning
from coinmesh_observability import prometheus as scraping
from coinmesh_observability.alerts import rule_files
from coinmesh_observability.dashboards import dashboards
from coinmesh_observability.json_files import write

Tls = Annotated[Path | None, typer.Option(help="The directory with the certificate to show.")]
Out = Annotated[Path, typer.Option(help="The directory to write into.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(prometheus)
    app.command()(alertmanager)
    app.command()(grafana)


def prometheus(
    out: Out,
    targets: Annotated[str, typer.Option(help="What to scrape, as JSON (see the README).")] = "[]",
    alertmanager: Annotated[str, typer.Option(help="Alertmanager's address.")] = "",
    tls: Tls = None,
) -> None:
    """Write `prometheus.json`, `web.json` for its listener, and the rules."""
    scraped = [scraping.Target(**one) for one in json.loads(targets)]
    settings = scraping.Settings()
    write(out / "prometheus.json", scraping.configuration(settings, scraped, alertmanager, tls))
    write(out / "web.json", scraping.listener(tls))
    for name, content in rule_files().items():
        write(out / "rules" / f"{name}.json", content)


def alertmanager(out: Out, tls: Tls = None) -> None:
    """Write `alertmanager.json`, and `web.json` for its listener."""
    write(out / "alertmanager.json", receivers.configuration(receivers.Settings()), mode=0o600)
    write(out / "web.json", scraping.listener(tls))


def grafana(
    out: Out,
    prometheus_url: Annotated[str, typer.Option()] = "https://127.0.0.1:19490",
    jaeger_url: Annotated[str, typer.Option()] = "https://127.0.0.1:18686",
) -> None:
    """Write dashboards, data sources and alert rules in the layout of Grafana's provisioning."""
    for path, content in provisioning.files(prometheus_url, jaeger_url).items():
        write(out / path, content)
    for dashboard in dashboards():
        write(out / "dashboards" / f"{dashboard.uid}.json", dashboard.model())
