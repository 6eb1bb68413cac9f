"""What the exporter shows of components without metrics of their own."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_components import Build, kill_supervisor, service, step

from coinmesh_local import operations
from coinmesh_local.component_exporter import Components
from coinmesh_local.testing import TestMesh, eventually
from meshkit.metrics import Metrics

pytestmark = pytest.mark.slow


def seen(mesh: TestMesh) -> Callable[[str, str], float | None]:
    """`value(metric, component)` of an exporter that asks the supervisor each time."""
    metrics = Metrics()
    components = Components(mesh.home, metrics, 60)

    def value(name: str, component: str) -> float | None:
        components.look()
        labels = {"component": component, "replica": component}
        return metrics.registry.get_sample_value(f"coinmesh_component_{name}", labels)

    return value


def test_the_exporter_tells_of_components_that_show_nothing_themselves(build: Build) -> None:
    mesh = build(one=service("--child"), other=service(), check=step("step", "${one.main}"))
    value = seen(mesh)
    assert value("ready", "one") is None
    mesh.require("one")
    assert (value("ready", "one"), value("restarts_total", "one")) == (1, 0)
    assert value("ready", "other") is None, "nobody has asked for it"
    assert value("ready", "check") is None, "a step has ended"
    assert 1e6 < (value("resident_bytes", "one") or 0) < 1e9
    assert 3 < (value("open_fds", "one") or 0) < (value("max_fds", "one") or 0)
    mesh.component("one").stop()
    assert value("ready", "one") is None


def test_the_exporter_sees_who_crashes_hangs_or_is_not_watched(
    build: Build, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    mesh = build(one=service("--until", str(flag)), other=service())
    mesh.require("one", "other")
    value = seen(mesh)
    used = value("cpu_seconds_total", "one") or 0
    assert used > 0
    flag.touch()
    eventually(lambda: (value("restarts_total", "one") or 0) > 1, "its crashes are counted")
    assert value("ready", "one") == 0
    flag.unlink()
    mesh.component("one").wait_ready()
    assert (value("cpu_seconds_total", "one") or 0) > used, "what it took before counts on"

    kill_supervisor(mesh)
    assert value("ready", "one") is None, "nobody knows"
    operations.ask(mesh.home, "restart", ["one"]).answer()
    assert (value("ready", "one"), value("ready", "other")) == (1, 0)
