"""Each service is declared once, and all that is declared is there."""

import tomllib
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from coinmesh_contracts.auth.v1 import rule_pb2
from coinmesh_contracts.sources import descriptor_set
from coinmesh_manifests.discovery import CHECKOUT, discover
from coinmesh_manifests.manifest import Manifest

MANIFESTS = discover()
RPCS = {
    f"{file.package}.{service.name}": service.method
    for file in FileDescriptorSet.FromString(descriptor_set()).file
    for service in file.service
    if file.package.startswith("coinmesh.")
}
#: Lines of a manifest without comments, blank lines and alerts.
LONGEST = 15
#: Those that are longer, and why.
LONGER = {
    "spark-stream": (24, "Spark's JVM takes its directories and options as settings"),
}


@pytest.fixture(params=MANIFESTS)
def manifest(request: pytest.FixtureRequest) -> Manifest:
    """A manifest of the tree."""
    return MANIFESTS[request.param]


def test_every_api_of_the_contracts_is_served_by_a_service() -> None:
    assert {api for one in MANIFESTS.values() for api in one.serves} == set(RPCS)


def test_every_rpc_of_a_service_has_a_caller_rule(manifest: Manifest) -> None:
    without = [
        f"{api}.{method.name}"
        for api in manifest.serves
        for method in RPCS[api]
        if not method.options.Extensions[rule_pb2.rule].callers
    ]
    assert without == [], f"{manifest.name}: nobody may call {without}"


def test_every_alert_of_a_service_has_a_section_in_the_runbook(manifest: Manifest) -> None:
    runbook = (CHECKOUT / "docs" / "operations" / "runbook.md").read_text().splitlines()
    without = [name for name in manifest.alerts if f"### {name}" not in runbook]
    assert without == [], f"{manifest.name}: the runbook lacks {without}"


def test_a_service_has_a_package_whose_command_it_runs(manifest: Manifest) -> None:
    if manifest.kind == "web":
        return
    project = tomllib.loads((manifest.path.parent / "pyproject.toml").read_text())["project"]
    command = (manifest.run.command or ("${bin}/" + manifest.name,))[0]
    names = {f"${{bin}}/{script}" for script in project["scripts"]}
    assert {command, command.replace("/sim-", "/coinmesh-sim-")} & names


def test_a_manifest_is_short(manifest: Manifest) -> None:
    text = manifest.path.read_text().partition("[alerts.")[0]
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    limit, _ = LONGER.get(manifest.name, (LONGEST, ""))
    assert len(lines) <= limit
    assert limit == LONGEST or len(lines) > LONGEST, "it needs no exception"


def test_nothing_declares_a_service_a_second_time(manifest: Manifest) -> None:
    component = Path(CHECKOUT, "deploy", "local", "components", f"{manifest.name}.toml")
    assert not component.exists()
    access = tomllib.loads((CHECKOUT / "deploy" / "access" / "access.toml").read_text())
    assert manifest.name not in access["services"]
