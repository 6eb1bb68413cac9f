"""Logs of the running mesh: every line's form, the way to the store, and who may use the store."""

import json
import os
import re
import ssl
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import declared
import httpx
import pytest
from jsonschema import Draft202012Validator

from coinmesh_access import table
from coinmesh_cli import log_search
from coinmesh_cli.log_search import Wanted
from coinmesh_local.testing import TestMesh, eventually
from coinmesh_manifests.grants import HttpAccess
from meshkit import log_lines, logs
from meshkit.tls import CertificateFiles, RenewingContext

pytestmark = pytest.mark.e2e

TABLE = table.load()
#: What is asked of the log store as every service; where it is let through, nothing is lost.
REQUESTS = (
    ("POST", "/coinmesh-logs-*/_search"),
    ("GET", "/_cat/health"),
    ("GET", "/_cluster/health"),
    ("POST", "/_bulk"),
    ("DELETE", "/coinmesh-logs-of-no-day"),
    ("PUT", "/_cluster/settings"),
)
SCHEMA = Draft202012Validator(log_lines.schema())
#: Programs of others that lie where ours do.
FOREIGN = ("${bin}/bao", "${bin}/envoy", "${bin}/weed")
#: Programs of others that are told to write the schema; OpenSearch is started by one of ours.
LAID_OUT = ("kafka", "cassandra")
#: What a JVM prints before its logging starts.
JVM_STARTS = ("WARNING: ", "OpenJDK 64-Bit Server VM warning: ")


@pytest.fixture(scope="module")
def mesh(last_run: Any) -> TestMesh:
    """The whole mesh, after it has worked."""
    last_run.mesh.require(*last_run.mesh.mesh.definitions)
    return last_run.mesh


def writers(mesh: TestMesh) -> list[str]:
    """Components whose every line is of the schema as it is written: all programs of ours."""
    commands = {name: found.command[0] for name, found in mesh.mesh.definitions.items()}
    ours = [
        name
        for name, program in commands.items()
        if program.startswith(("${bin}/", "${python}")) and program not in FOREIGN
    ]
    own = {name for name, one in declared.MANIFESTS.items() if one.kind != "web"}
    assert {"certs", "ratelimit", "vault-setup", *own} <= set(ours)
    return [*ours, *LAID_OUT]


def test_every_line_of_every_service_is_of_the_schema(mesh: TestMesh):
    instances = [(name, each) for name in writers(mesh) for each in mesh.mesh.instance_names(name)]
    for name, instance in instances:
        texts = mesh.component(instance).log().splitlines()
        assert texts, instance
        for text in texts:
            if not text.startswith(JVM_STARTS):
                assert text.startswith("{"), f"{instance}: {text}"
                SCHEMA.validate(json.loads(text))
                assert json.loads(text)["service"] == name


def test_every_other_line_comes_into_the_schema(mesh: TestMesh):
    seen: set[str] = set()
    for path in mesh.home.logs.glob("*.log"):
        for line in log_search.matching(path.open(), log_lines.instance_of(path.name), Wanted()):
            SCHEMA.validate(line)
            seen.add(line["service"])
    assert seen >= {"kafka", "cassandra", "redis", "seaweedfs", "apicurio", "openbao"}


@pytest.fixture(scope="module")
def shipping(mesh: TestMesh) -> Iterator[Path]:
    """A log file of a made-up service, shipped like every other."""
    path = mesh.home.log("sample-1")
    yield path
    path.unlink(missing_ok=True)


def write(path: Path, message: str, trace: str) -> None:
    """Append a line as a service would."""
    line = json.loads(logs.line("sample", "tests", message)) | {"trace_id": trace}
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def stored(mesh: TestMesh, trace: str) -> list[str]:
    """The messages of a trace that the store has."""
    found = log_search.from_store(mesh.mesh, Wanted(trace_id=trace), 100_000)
    return [] if found is None else sorted(line["message"] for line in found)


def test_lines_are_found_by_trace_in_the_store(mesh: TestMesh, shipping: Path):
    trace = uuid.uuid4().hex
    write(shipping, "first password=hush1234", trace)
    with shipping.open("a") as file:
        file.write("a line of another form, token=hush1234\n")
    write(shipping, "second " + "x" * 100_000, trace)
    eventually(lambda: len(stored(mesh, trace)) == 2, "both lines are stored")
    where, lines = log_search.search(mesh.mesh, Wanted(service="sample"), 10)
    assert where == "store and files"
    assert "hush1234" not in json.dumps(lines)
    assert [line["instance"] for line in lines] == ["sample-1"] * 3
    for line in lines:
        SCHEMA.validate(line)


def test_a_rotation_loses_nothing_that_was_written_before(mesh: TestMesh, shipping: Path):
    trace = uuid.uuid4().hex
    write(shipping, "before", trace)
    eventually(lambda: stored(mesh, trace) == ["before"], "the line is stored")
    os.truncate(shipping, 0)  # as the supervisor does once it has copied the file
    write(shipping, "after", trace)
    eventually(lambda: stored(mesh, trace) == ["after", "before"], "the new line is stored")


def test_an_outage_of_the_store_loses_and_repeats_nothing(mesh: TestMesh, shipping: Path):
    trace = uuid.uuid4().hex
    messages = [f"line {number:04}" for number in range(500)]
    mesh.component("log-store").stop()
    try:
        for message in messages:
            write(shipping, message, trace)
        assert log_search.search(mesh.mesh, Wanted(trace_id=trace), 1000)[0] == "files"
    finally:
        mesh.component("log-store").start()
    mesh.component("log-store").wait_ready()
    eventually(lambda: len(stored(mesh, trace)) >= len(messages), "all lines are stored")
    assert stored(mesh, trace) == messages


def test_a_request_to_vault_is_stored_once_though_two_devices_record_it(mesh: TestMesh):
    first, second = "openbao-audit-1", "openbao-audit-2"
    assert all(mesh.home.log(device).stat().st_size for device in (first, second))
    eventually(lambda: log_search.from_store(mesh.mesh, Wanted(service=first), 1), "it is stored")
    assert log_search.from_store(mesh.mesh, Wanted(service=second), 1) == []


@pytest.fixture
def asks(mesh: TestMesh) -> Iterator[Callable[[str, str, str], int]]:
    """The store's status for a request of an identity."""
    clients: dict[str, httpx.Client] = {}

    def ask(identity: str, method: str, path: str) -> int:
        if identity not in clients:
            context = RenewingContext(
                CertificateFiles(mesh.home.tls / identity), ssl.PROTOCOL_TLS_CLIENT
            )
            clients[identity] = httpx.Client(
                base_url=mesh.endpoints["log-store"], verify=context, timeout=10
            )
        body: Any = {"query": {"match_all": {}}} if path.endswith("_search") else None
        return clients[identity].request(method, path, json=body).status_code

    yield ask
    for client in clients.values():
        client.close()


@pytest.mark.parametrize("service", TABLE.services)
def test_the_store_does_for_each_what_it_may_and_nothing_else(
    asks: Callable[[str, str, str], int], service: str
):
    rules = list(map(HttpAccess.parse, TABLE.services[service].http.get("log-store", ())))
    granted = {
        (method, path): any(
            (not rule.methods or method in rule.methods) and bool(re.fullmatch(rule.path, path))
            for rule in rules
        )
        for method, path in REQUESTS
    }
    assert {(m, path): asks(service, m, path) != 403 for m, path in REQUESTS} == granted


def test_the_store_knows_nobody_without_a_certificate(mesh: TestMesh):
    with pytest.raises(httpx.HTTPError), httpx.Client(verify=False) as nobody:
        nobody.get(mesh.endpoints["log-store"])
