"""Prometheus's configuration: a scrape per component of the mesh that exports metrics."""

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Settings from `COINMESH_PROMETHEUS_…`."""

    model_config = SettingsConfigDict(env_prefix="COINMESH_PROMETHEUS_")

    scrape_interval: str = Field(
        default="10s", description="Between scrapes, and between rules' runs."
    )


class Target(BaseModel):
    """One process that exports metrics; `job` is its component."""

    job: str
    instance: str
    url: str
    #: Holds the password of the user `prometheus`, where the exporter requires one.
    password_file: str | None = None


def configuration(
    settings: Settings, targets: list[Target], alertmanager: str, tls: Path | None = None
) -> dict[str, Any]:
    """Return the whole configuration; without `alertmanager` only Prometheus shows alerts.

    `tls` holds Prometheus's client certificate (files of `client_files`).
    """
    secured = {"scheme": "https", "tls_config": client_files(tls)} if tls else {}
    return {
        "global": {
            "scrape_interval": settings.scrape_interval,
            "scrape_timeout": settings.scrape_interval,
            "evaluation_interval": settings.scrape_interval,
        },
        "storage": {"exemplars": {"max_exemplars": 100_000}},
        "rule_files": ["rules/*.json"],
        "alerting": {
            "alertmanagers": [{**secured, "static_configs": [{"targets": [alertmanager]}]}]
            if alertmanager
            else []
        },
        "scrape_configs": [
            scrape(job, [target for target in targets if target.job == job], tls)
            for job in dict.fromkeys(target.job for target in targets)
        ],
    }


def client_files(tls: Path) -> dict[str, str]:
    """Return the paths of certificate, key and CA; they are reread for every connection."""
    current = tls / "current"
    return {
        "ca_file": str(current / "ca.crt"),
        "cert_file": str(current / "tls.crt"),
        "key_file": str(current / "tls.key"),
    }


def listener(tls: Path | None) -> dict[str, Any]:
    """Return the listener of Prometheus and Alertmanager: TLS 1.3 with client certificates.

    https://prometheus.io/docs/prometheus/latest/configuration/https/
    """
    if tls is None:
        return {}
    files = client_files(tls)
    return {
        "tls_server_config": {
            "cert_file": files["cert_file"],
            "key_file": files["key_file"],
            "client_ca_file": files["ca_file"],
            "client_auth_type": "RequireAndVerifyClientCert",
            "min_version": "TLS13",
        }
    }


def scrape(job: str, replicas: list[Target], tls: Path | None) -> dict[str, Any]:
    """Return the scrape of one component; its replicas differ in their addresses only."""
    first = urlsplit(replicas[0].url)
    found: dict[str, Any] = {
        "job_name": job,
        "scheme": first.scheme,
        "metrics_path": first.path,
        "static_configs": [
            {"targets": [urlsplit(one.url).netloc], "labels": {"instance": one.instance}}
            for one in replicas
        ],
    }
    if first.query:
        found["params"] = {
            name: [value] for name, value in parse_qsl(first.query, keep_blank_values=True)
        }
    if first.scheme == "https" and tls is not None:
        found["tls_config"] = client_files(tls)
    if password := replicas[0].password_file:
        found["basic_auth"] = {"username": "prometheus", "password_file": password}
    return found
