"""`coinmesh status` and `doctor`: verdicts, missing data, and what fits on a screen."""

import json
import os
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console
from typer.testing import CliRunner

from coinmesh_cli import diagnosis, health, machine, status
from coinmesh_cli.findings import Finding
from coinmesh_cli.health import Report
from coinmesh_cli.main import app
from coinmesh_local.mesh import Mesh
from coinmesh_local.paths import Home


def row(name: str, **changed: Any) -> dict[str, Any]:
    """A component that is all right."""
    return {
        "name": name,
        "component": name,
        "kind": "service",
        "state": "ready",
        "detail": "",
        "pid": 7,
        "started": time.time() - 90_000,
        "restarts": 0,
        "ports": {"grpc": 18061, "metrics": 18161, "very_long_listener_name": 28888},
        "memory": 300 << 20,
        "ready": True,
        "version": "1.2.3",
        "vital": name in ("kafka", "query-gateway", "envoy"),
    } | changed


def behind(service: str, seconds: float | None, query: str | None = None) -> dict[str, Any]:
    """A row of lag."""
    row = {"service": service, "query": query, "topic": "market.trades.v1"}
    return row | {"records": 9, "seconds": seconds}


def fresh(age: float, service: str = "query-gateway") -> dict[str, Any]:
    """A row of freshness."""
    row = {"service": service, "what": "market.trades.v1", "newest": 1.0}
    return row | {"age_seconds": age}


def report(**changed: Any) -> Report:
    found = Report(
        time="2026-11-22T21:00:00Z",
        components=[row("kafka"), row("query-gateway"), row("envoy"), row("redis")],
        streams=[
            {
                "service": "collector-binance",
                "instrument": "binance.BTC-USDT",
                "channel": "trade",
                "events": 9,
                "gaps": 0,
            }
        ],
        lag=[behind("spark-stream", 1.0, "bars"), behind("spark-stream", 90.0, "archive-market")],
        freshness=[fresh(0.4)],
        gaps_open=0,
        dead_letters=0,
        certificates=[{"identity": "envoy", "remaining_seconds": 3000, "life_seconds": 3600}],
        disk={"free_bytes": 50 << 30, "total_bytes": 99 << 30, "data_bytes": 1, "logs_bytes": 1},
    )
    for name, value in changed.items():
        setattr(found, name, value)
    health.judge(found)
    return found


def test_all_is_well():
    found = report()
    assert (found.health, found.reasons) == ("healthy", [])


@pytest.mark.parametrize(
    ("changed", "verdict", "reason"),
    [
        ({"components": [row("kafka", ready=False, state="crashed")]}, "down", "kafka is crashed"),
        ({"components": []}, "down", "no component"),
        ({"gaps_open": 2}, "degraded", "2 gaps are open"),
        ({"missing": ["disk: gone"]}, "degraded", "no answer from disk: gone"),
        (
            {"lag": [behind("g-1", 0.0), behind("g-2", 31.0)]},
            "degraded",
            "g-2 is 31 s behind market.trades.v1",
        ),
        (
            {"lag": [behind("spark-stream", 301.0, "archive-market")]},
            "degraded",
            "spark-stream is 301 s behind market.trades.v1",
        ),
        (
            {"freshness": [fresh(0.4, "g-1"), fresh(61.0, "g-2")]},
            "degraded",
            "market.trades.v1: newest is 61 s old in g-2",
        ),
        (
            {"certificates": [{"identity": "x", "remaining_seconds": 700, "life_seconds": 3600}]},
            "degraded",
            "x is overdue",
        ),
        (
            {"certificates": [{"identity": "x", "remaining_seconds": -1, "life_seconds": 3600}]},
            "degraded",
            "x has expired",
        ),
        (
            {
                "certificates": [
                    {
                        "identity": "kafka",
                        "remaining_seconds": 3000,
                        "life_seconds": 3600,
                        "hook_failures": 3,
                    }
                ]
            },
            "degraded",
            "kafka doesn't use its new certificate: 3 attempts failed",
        ),
    ],
)
def test_verdicts(changed: dict[str, Any], verdict: str, reason: str):
    found = report(**changed)
    assert found.health == verdict
    assert any(reason in one for one in found.reasons), found.reasons


def test_without_kafka_the_gateway_or_envoy_nobody_is_served(tmp_path: Path):
    found = Mesh(Home(tmp_path)).definitions.values()
    assert {one.name for one in found if one.vital} == {"kafka", "query-gateway", "envoy"}


def test_the_loss_of_one_that_is_not_vital_degrades():
    components = [row("kafka"), row("query-gateway"), row("envoy"), row("redis", ready=False)]
    assert report(components=components).health == "degraded"


def printed(found: Report, width: int) -> str:
    console = Console(width=width, force_terminal=False, no_color=True)
    with console.capture() as capture:
        console.print(status.view(found, width))
    return capture.get()


@pytest.mark.parametrize("width", [80, 120])
def test_the_screen_fits_and_says_what_is_not_known(width: int):
    nothing = report(
        streams=None, lag=None, freshness=None, gaps_open=None, certificates=None, disk=None
    )
    for found in (report(), nothing):
        text = printed(found, width)
        assert max(map(len, text.splitlines())) <= width
        assert len(text.splitlines()) <= 40
        assert "\x1b" not in text
        for name in ("kafka", "query-gateway", "freshness", "lag", "certificate"):
            assert name in text
    assert printed(nothing, width).count("not known") == 3


def test_a_mesh_that_does_not_run_is_down_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COINMESH_HOME", str(tmp_path))
    result = CliRunner().invoke(app, ["status", "--json"])
    assert result.exit_code == 2, result.output
    told = json.loads(result.stdout)
    assert (told["version"], told["health"], told["gaps_open"]) == (1, "down", None)
    assert {one["name"] for one in told["components"]} >= {"kafka", "envoy", "spark-stream"}
    assert CliRunner().invoke(app, ["status"]).exit_code == 2


def test_doctor_checks_the_machine_without_a_mesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COINMESH_HOME", str(tmp_path))
    result = CliRunner().invoke(app, ["doctor", "--json"])
    found = json.loads(result.stdout)
    assert found.keys() == {"machine"}
    assert {one["area"] for one in found["machine"]} >= {
        "python",
        "jdk17",
        "mvn",
        "memory",
        "clock",
    }
    levels = {one["level"] for one in found["machine"]}
    assert result.exit_code == (2 if "bad" in levels else 1 if "warning" in levels else 0)


def test_doctor_names_who_holds_a_port(tmp_path: Path):
    import socket

    mesh = Mesh(Home(tmp_path))
    number = mesh.instances("redis")[0].ports["redis"]
    with socket.socket() as holder:
        try:
            holder.bind(("127.0.0.1", number))
        except OSError:
            pytest.skip(f"port {number} is in use on this machine")
        holder.listen()
        found = [one for one in machine.taken_ports(mesh) if one.what.startswith(f"{number} ")]
    assert found[0].level == "bad"
    assert f"pid {os.getpid()}" in found[0].what


def test_doctor_finds_growth_from_one_look_to_the_next(tmp_path: Path):
    mesh = Mesh(Home(tmp_path))
    mesh.home.create()
    seen = report()
    assert seen.disk is not None
    list(diagnosis.growth(mesh, seen, 0.0))
    seen.disk |= {"data_bytes": 40 << 30}
    (found,) = diagnosis.growth(mesh, seen, 3600.0)
    assert found.level == "warning"
    assert "+40960 MiB/h" in found.what
    assert "full in 0.1 days" in found.what


def test_doctor_says_what_to_do_for_each_finding():
    sick = report(
        components=[row("redis", ready=False, state="crashed", detail="ended with status 1")],
        lag=[behind("s", 31.0)],
        freshness=[fresh(61.0)],
        gaps_open=1,
        dead_letters=2,
        certificates=[{"identity": "x", "remaining_seconds": 60, "life_seconds": 3600}],
    )
    found: list[Finding] = [
        *diagnosis.components(sick),
        *diagnosis.flow(sick),
        *diagnosis.certificates(sick),
    ]
    assert len(found) == 6
    assert all(one.level != "ok" and one.do for one in found)
    assert any("coinmesh logs redis" in one.do for one in found)
    (old,) = [one for one in found if one.area == "freshness"]
    assert "`coinmesh logs collector-binance`, `coinmesh logs query-gateway`" in old.do


COLLECTOR = """
# TYPE coinmesh_source_events_total counter
coinmesh_source_events_total{{instrument="{0}",channel="trade"}} 5.0
coinmesh_source_open_gaps{{instrument="{0}"}} {1}
process_open_fds 9
"""
GATEWAY = """
coinmesh_consumer_lag_records{{client="c",topic="market.trades.v1",partition="0"}} 3.0
coinmesh_consumer_lag_records{{client="c",topic="market.trades.v1",partition="1"}} 4.0
coinmesh_consumer_lag_seconds{{client="c",topic="market.trades.v1",partition="0"}} {0}
coinmesh_live_newest_seconds{{topic="market.trades.v1"}} {1}
"""
SPARK = """
coinmesh_spark_lag_records{query="bars",topic="market.trades.v1",partition="0"} 1.0
coinmesh_spark_lag_records{query="archive-market",topic="market.trades.v1",partition="0"} 700.0
coinmesh_spark_lag_seconds{query="bars",topic="market.trades.v1",partition="0"} 0.5
coinmesh_spark_lag_seconds{query="archive-market",topic="market.trades.v1",partition="0"} 61.0
coinmesh_spark_newest_event_seconds{partition="0"} 1.0
"""


def component(replicas: int = 1) -> str:
    """A file of a component that shows metrics."""
    return f"""
description = "a service of our own"
replicas = "{replicas}"
command = ["true"]
[environment]
COINMESH_METRICS_LISTEN = "somewhere"
[metrics]
url = "https://metrics/${{instance}}"
"""


def test_every_instance_is_asked_for_its_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now = time.time()
    texts = {
        "/collector-a": COLLECTOR.format("a.BTC-USDT", 0),
        "/collector-b": COLLECTOR.format("b.BTC-USDT", 2),
        "/gateway-1": GATEWAY.format(0, now),
        "/gateway-2": GATEWAY.format(40, now - 100),
        "/spark": SPARK,
    }
    files = tmp_path / "components"
    files.mkdir()
    for name in ("collector-a", "collector-b", "gateway", "spark"):
        text = component(2 if name == "gateway" else 1)
        (files / f"{name}.toml").write_text(text)
    # Another's metrics are Prometheus's alone.
    foreign = component().replace("COINMESH_METRICS_LISTEN", "JAVA_HOME")
    (files / "jvm.toml").write_text(foreign)
    mesh = Mesh(Home(tmp_path / "home"), components=(files,))
    mesh.home.create()
    transport = httpx.MockTransport(lambda asked: httpx.Response(200, text=texts[asked.url.path]))
    monkeypatch.setattr(health, "http_client", lambda *_: httpx.Client(transport=transport))
    monkeypatch.setattr(
        health.operations,
        "status",
        lambda mesh: [
            row(name, component=one)
            for one in mesh.definitions
            for name in mesh.instance_names(one)
        ],
    )
    found = health.gather(mesh)
    assert found.missing == []
    assert [(one["service"], one["events"]) for one in found.streams or ()] == [
        ("collector-a", 5),
        ("collector-b", 5),
    ]
    assert found.gaps_open == 2
    assert {
        (one["service"], one["query"], one["records"], one["seconds"]) for one in found.lag or ()
    } == {
        ("gateway-1", None, 7, 0.0),
        ("gateway-2", None, 7, 40.0),
        ("spark", "bars", 1, 0.5),
        ("spark", "archive-market", 700, 61.0),
    }
    ages = {(one["service"], one["what"]): one["age_seconds"] for one in found.freshness or ()}
    assert ages["gateway-1", "market.trades.v1"] < 60 < ages["gateway-2", "market.trades.v1"]
    assert ages["spark", "bars' newest trade"] > 60
    assert "gateway-2 is 40 s behind market.trades.v1" in found.reasons
    kept = Mesh(mesh.home, environment={"COINMESH_SIM_TIME": "kept"}, components=(files,))
    told = {one["what"] for one in health.gather(kept).freshness or ()}
    assert told == {"market.trades.v1"}
