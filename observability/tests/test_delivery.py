"""A rule that is broken on purpose is told to the webhook, and so is its end."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from coinmesh_local.testing import TestMesh, eventually

pytestmark = pytest.mark.component


@contextmanager
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A receiver of alerts: its URL, and the alerts that it was told."""
    told: list[dict[str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            told.extend(json.loads(body)["alerts"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/alerts", told
    finally:
        server.shutdown()
        server.server_close()


def test_a_broken_rule_arrives_at_the_webhook_and_is_resolved(mesh: TestMesh) -> None:
    with webhook() as (url, told):
        mesh.environment |= {
            "COINMESH_PROMETHEUS_SCRAPE_INTERVAL": "1s",
            "COINMESH_ALERT_WEBHOOK_URL": url,
            "COINMESH_ALERT_GROUP_WAIT": "0s",
            "COINMESH_ALERT_GROUP_INTERVAL": "1s",
        }
        mesh.require("redis-exporter", "prometheus", "alertmanager")

        def states() -> list[str]:
            return [
                alert["status"] for alert in told if alert["labels"]["alertname"] == "RedisDown"
            ]

        mesh.component("redis").stop()
        eventually(lambda: states() == ["firing"], "the alert arrives")
        mesh.component("redis").start()
        eventually(lambda: "resolved" in states(), "its end arrives")
        (alert, *_) = [one for one in told if one["labels"]["alertname"] == "RedisDown"]
        assert alert["labels"]["severity"] == "ticket"
        assert alert["annotations"]["runbook"].endswith("runbook.md#redisdown")
