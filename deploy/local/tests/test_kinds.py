"""What manifests become as components."""

from pathlib import Path

import pytest

from coinmesh_local import listeners
from coinmesh_local.definition import DefinitionError
from coinmesh_local.kinds import declared
from coinmesh_local.mesh import Mesh, Options
from coinmesh_local.paths import CHECKOUT, COMPONENTS, Home
from coinmesh_manifests.discovery import discover
from coinmesh_manifests.ports import BLOCK, BLOCKS

COLLECTOR = 'kind = "collector"\ndescription = "d"\n'


def tree(root: Path, **manifests: str) -> Path:
    for name, text in manifests.items():
        place = root / "services" / name.replace("_", "-")
        place.mkdir(parents=True)
        (place / "service.toml").write_text(text)
    return root


def mesh(root: Path, **manifests: str) -> Mesh:
    """The shipped components, with the services of a tree of its own."""
    places = (COMPONENTS, CHECKOUT, tree(root / "tree", **manifests))
    return Mesh(Home(root / "home"), components=places)


def test_a_manifest_of_two_lines_is_a_whole_service(tmp_path: Path) -> None:
    made = mesh(tmp_path, collector_x=COLLECTOR)
    (instance,) = made.instances("collector-x")
    numbers = made.ports["collector-x"]
    assert instance.command[0].endswith("/bin/collector-x")
    assert instance.environment["COINMESH_GRPC_LISTEN"] == f"127.0.0.1:{numbers['grpc'][0]}"
    assert instance.environment["COINMESH_METRICS_LISTEN"] == f"127.0.0.1:{numbers['metrics'][0]}"
    assert instance.environment["COINMESH_TLS_DIR"] == str(
        tmp_path / "home" / "tls" / "collector-x"
    )
    assert instance.probe.kind == "grpc"
    assert made.endpoints()["collector-x"]["url"] == f"127.0.0.1:{numbers['grpc'][0]}"
    assert "collector-x" in {target["job"] for target in made.metrics_targets()}
    assert instance.memory > 0


def test_envoy_and_the_gateway_know_every_collector(tmp_path: Path) -> None:
    made = mesh(tmp_path, collector_x=COLLECTOR)
    address = f"127.0.0.1:{made.ports['collector-x']['grpc'][0]}"
    (prepare,) = made.instances("envoy")[0].prepare
    assert f"collector-x={address}" in prepare[prepare.index("--service") + 1].split()
    gateway = made.instances("query-gateway")[0].environment
    assert f"x={address}" in gateway["COINMESH_COLLECTORS"].split(",")
    assert "binance=127.0.0.1:18051" in gateway["COINMESH_COLLECTORS"].split(",")


@pytest.mark.parametrize(
    ("grant", "needed"),
    [
        ('kafka.read = ["@market"]', {"kafka-access", "topics", "schemas", "registry"}),
        ('cassandra.select = ["trades"]', {"cassandra-access"}),
        ('redis.commands = ["get"]', {"redis"}),
        ('s3.read = ["raw/"]', {"bucket"}),
        ('http.log-store = ["GET /"]', {"log-store"}),
        ('uses = ["sim-exchange"]', {"sim-exchange"}),
        ("", set()),
    ],
)
def test_dependencies_follow_from_the_grants(tmp_path: Path, grant: str, needed: set[str]) -> None:
    places = (COMPONENTS, CHECKOUT, tree(tmp_path, a=f"{COLLECTOR}{grant}\n"))
    assert set(declared(places)["a"].depends_on) == {"certs", *needed}


def test_a_simulator_lets_in_those_who_use_it(tmp_path: Path) -> None:
    made = mesh(tmp_path, collector_x=COLLECTOR + 'uses = ["sim-exchange"]\n')
    (simulator,) = made.instances("sim-exchange")
    clients = simulator.environment["COINMESH_SIM_CLIENTS"].split(",")
    assert {"collector-x", "deploy"} <= set(clients)
    others = {one.name for one in made.definitions.values() if "sim-exchange" not in one.depends_on}
    assert not others & {*clients} - {"deploy"}


def test_listener_exceptions_of_a_provision_hold_for_its_services() -> None:
    spark = {name for name, one in discover().items() if "spark-jars" in one.run.provision}
    rows = listeners.exceptions()
    assert spark
    assert {component for component, listener in rows if listener == "*"} >= spark
    assert rows["kafka", "metrics"]["plaintext"]


def test_derived_ports_are_the_same_on_every_machine(tmp_path: Path) -> None:
    found = mesh(tmp_path, collector_x=COLLECTOR).definitions["collector-x"].ports
    assert found == {"grpc": 10_599, "metrics": 11_599}


def test_nothing_else_has_a_port_in_the_blocks_of_derived_ones(tmp_path: Path) -> None:
    made = Mesh(Home(tmp_path), Options(profile="full", ha=True, gateways=8))
    for name, found in made.definitions.items():
        for port, number in found.ports.items():
            block = number // BLOCK * BLOCK
            assert block not in BLOCKS.values() or BLOCKS[port] == block, f"{name} {port}"


def test_an_exported_setting_of_another_component_is_rejected(tmp_path: Path) -> None:
    wrong = tree(tmp_path, a=COLLECTOR + '[run.exports]\nREDIS_URL = "x"\n')
    with pytest.raises(DefinitionError, match="a and redis both have the exported setting REDIS_"):
        declared((COMPONENTS, CHECKOUT, wrong))


def test_a_wrong_manifest_is_a_wrong_definition(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match=r"a/service\.toml: kind"):
        declared((COMPONENTS, tree(tmp_path, a='description = "d"')))


WEB = """
kind = "web"
description = "d"
s3.read = ["raw/"]
[run]
command = ["server", "--uds", "${run}/http.sock"]
ready = "/a/health"
"""


def test_a_web_server_has_no_port_and_an_envoy_in_front_of_it(tmp_path: Path) -> None:
    found = declared((COMPONENTS, CHECKOUT, tree(tmp_path, a=WEB)))
    server, front = found["a-server"], found["a"]
    assert (server.ports, server.identity) == ({}, "a")
    assert set(server.depends_on) == {"certs", "bucket"}
    assert set(front.depends_on) == {"certs", "a-server"}
    assert set(front.ports) == {"https"}
    assert "/=unix:${home}/run/a-server/http.sock" in front.prepare[0]


def test_a_job_runs_when_it_is_named(tmp_path: Path) -> None:
    made = mesh(tmp_path, a='kind = "job"\ndescription = "d"\nrun.command = ["true"]\n')
    assert "a" not in made.at_once()
    assert "a" in made.at_once(["a"])
    (instance,) = made.instances("a")
    assert (instance.kind, instance.ports) == ("step", {})
