"""Storage of log lines in the log store: one index per day, field types and retention."""

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from pydantic import Field

from coinmesh_local.steps.errors import StepError
from meshkit import log_lines
from meshkit.settings import MeshSettings
from meshkit.tls import client_ssl_context

PREFIX = "coinmesh-logs-"
DAY = f"{PREFIX}%Y.%m.%d"
_KEYWORDS = ("level", "service", "instance", "logger", "trace_id", "span_id")
_log = logging.getLogger(__name__)


class LogStoreSettings(MeshSettings):
    """Address of the log store and its retention in days."""

    log_store_url: str
    log_retention_days: int = Field(default=7, ge=1)


def template() -> dict[str, Any]:
    """Return the index template: fields of the log schema are indexed, others are only stored.

    Extra fields may have any type; if they were indexed, a line whose field has another type than
    in an earlier line would be rejected.
    """
    fields: dict[str, Any] = {key: {"type": "keyword"} for key in _KEYWORDS}
    fields |= {"ts": {"type": "date_nanos"}, "message": {"type": "text"}}
    fields |= {"exception": {"type": "text"}}
    assert fields.keys() == log_lines.schema()["properties"].keys()
    return {
        "index_patterns": [f"{PREFIX}*"],
        "template": {
            "settings": {"number_of_shards": 1, "number_of_replicas": 0, "refresh_interval": "1s"},
            "mappings": {"dynamic": False, "properties": fields},
        },
    }


def expired(names: list[str], today: datetime, days: int) -> list[str]:
    """Return the indices in `names` of days more than `days` ago."""
    oldest = (today - timedelta(days=days)).strftime(DAY)
    return sorted(name for name in names if name.startswith(PREFIX) and name < oldest)


def prepare(settings: LogStoreSettings) -> None:
    """Set the template and delete indices older than the retention; StepError on failure."""
    tls = client_ssl_context(settings)
    url, days = settings.log_store_url, settings.log_retention_days
    with httpx.Client(base_url=url, verify=tls or True, timeout=30) as client:
        _prepare(client, days)


def _prepare(client: httpx.Client, days: int) -> None:
    try:
        client.put("/_index_template/coinmesh-logs", json=template()).raise_for_status()
        listed = client.get(f"/_cat/indices/{PREFIX}*", params={"format": "json", "h": "index"})
        names = [row["index"] for row in listed.raise_for_status().json()]
        for name in expired(names, datetime.now(UTC), days):
            client.delete(f"/{name}").raise_for_status()
            _log.info("deleted %s: older than %d days", name, days)
    except httpx.HTTPError as error:
        raise StepError(f"the log store at {client.base_url}: {error}") from error
