"""One trace follows a frame to the live view, another a request to the stores: told by Jaeger."""

import json
import os
import secrets
import subprocess
from typing import Any

import httpx
import pytest

from coinmesh_cli import trace
from coinmesh_cli.jaeger import Jaeger, Span, edges
from coinmesh_local.paths import BIN
from coinmesh_local.testing import eventually
from meshkit import tracing

pytestmark = pytest.mark.e2e

#: Who calls or tells whom; a new service adds its lines.
EDGES = {
    ("binance", "collector-binance"),
    ("collector-binance", "query-gateway"),
    ("collector-binance", "spark-stream"),
    ("spark-stream", "cassandra"),
    ("spark-stream", "query-gateway"),
    ("envoy", "collector-binance"),
    ("envoy", "query-gateway"),
    ("query-gateway", "cassandra"),
    ("query-gateway", "redis"),
}
#: What a trade goes through until its bar is on the live view.
WAY = [
    ("collector-binance", "receive binance"),
    ("collector-binance", "send market.trades.v1"),
    ("spark-stream", "micro-batch bars"),
    ("spark-stream", "send market.bars.v1"),
    ("query-gateway", "process market.bars.v1"),
]


@pytest.fixture(scope="module")
def jaeger(run: Any) -> Jaeger:
    """The mesh's Jaeger."""
    run.mesh.require("jaeger")
    return trace.connect(run.mesh.mesh)


def test_every_service_stands_in_traces_where_it_belongs(
    run: Any, jaeger: Jaeger, call: Any
) -> None:
    instrument = next(iter(run.instruments.values()))
    seen: set[tuple[str, str]] = set()

    def complete() -> bool:
        asked = {"traceparent": f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"}
        for kind in ("bars", "bars:view"):
            path = f"/v1/instruments/{instrument}/{kind}"
            run.rest.get(path, params={"interval": "1m"}, headers=asked).raise_for_status()
        run.rest.get("/v1/collectors/binance/subscriptions", headers=asked).raise_for_status()
        for service in jaeger.services():
            seen.update(edges(jaeger.search(service, limit=50)))
        return seen >= EDGES

    eventually(complete, f"all of {sorted(EDGES)} are seen")
    assert seen == EDGES


def test_only_a_users_request_takes_a_place_among_the_traces(run: Any, jaeger: Jaeger) -> None:
    def ask(**changed: Any) -> tuple[str, int]:
        trace_id = secrets.token_hex(16)
        sampled = {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"}
        return trace_id, run.rest.get("/v1/instruments", headers=sampled, **changed).status_code

    def envoys(trace_id: str) -> list[Span]:
        return [span for span in jaeger.trace(trace_id) if span.service == "envoy"]

    strangers = [ask(auth=None), ask(auth=forged)]
    assert [status for _, status in strangers] == [401, 401]
    # Envoy sends its spans in their order: when the user's is there, theirs would be.
    users, status = ask()
    assert status == 200
    eventually(lambda: envoys(users), "the user's request is traced")
    assert [envoys(trace_id) for trace_id, _ in strangers] == [[], []]


def forged(request: httpx.Request) -> httpx.Request:
    """Claims to be somebody: by a token not of Vault, and by the header that only Envoy sets."""
    request.headers["authorization"] = f"Bearer {'e30.' * 2}e30"
    request.headers["x-coinmesh-tier"] = "unlimited"
    return request


def test_a_trade_leads_to_its_bar_on_the_live_view(run: Any, jaeger: Jaeger) -> None:
    def followed() -> tuple[Span, list[Span]] | None:
        for span in jaeger.search("collector-binance", limit=50):
            if span.operation == "send market.trades.v1":
                spans = jaeger.whole(span.trace_id)
                if set(WAY) <= {(one.service, one.operation) for one in spans}:
                    return span, spans
        return None

    sent, spans = eventually(followed, "a trade's trace reaches the live view")
    starts = [
        min(one.start for one in spans if (one.service, one.operation) == step) for step in WAY
    ]
    assert starts == sorted(starts)

    event_id = sent.attributes[tracing.EVENT_ID]
    environment = os.environ | {"COINMESH_HOME": str(run.mesh.home.root)}
    command = [BIN / "coinmesh", "trace", event_id, "--json"]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    document = json.loads(shown.stdout)
    assert document["trace_id"] == sent.trace_id
    assert {(row["service"], row["operation"]) for row in document["spans"]} >= set(WAY)
