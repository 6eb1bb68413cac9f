"""Whoever comes to any listening port of the mesh without the right certificate is refused."""

import ipaddress
import socket
import ssl
import struct
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import declared
import grpc
import httpx
import pytest
import visitors as clients
from confluent_kafka.admin import AdminClient

from coinmesh_access import cassandra_session
from coinmesh_access.table import AccessError
from coinmesh_local import listeners, renewals
from coinmesh_local.listeners import Listener
from coinmesh_local.testing import TestMesh
from meshkit.kafka import client_config
from meshkit.settings import KafkaSettings

pytestmark = pytest.mark.e2e

#: A service of the table to which nobody grants anything here.
WRONG = "jaeger"
#: Who may come, where that isn't the deployer.
RIGHT = {"seaweedfs": "seaweedfs", "cassandra": "cassandra", "ratelimit": "envoy"}


@pytest.fixture(scope="session")
def found(last_run: Any) -> list[Listener]:
    """All there are once every component of the full profile runs."""
    last_run.mesh.require(*last_run.mesh.mesh.definitions)
    return sorted(set(listeners.listeners(last_run.mesh)))


def test_every_stated_port_is_among_those_that_listen(last_run: Any, found: list[Listener]) -> None:
    """The walk sees what it should: a test of nothing can't pass."""
    seen = {(each.component, each.name) for each in found}
    assert {
        ("kafka", "client"),
        ("kafka", "controller"),
        ("cassandra", "cql"),
        ("cassandra", "storage"),
        ("redis", "redis"),
        ("registry", "https"),
        ("seaweedfs", "s3"),
        ("seaweedfs", "volume"),
        *declared.LISTENERS,
        ("envoy", "public"),
        ("openbao", "cluster"),
        ("certs", "metrics"),
    } <= seen


def test_all_listen_on_the_loopback_interface(found: list[Listener]) -> None:
    for each in found:
        assert ipaddress.ip_address(each.host.removeprefix("::ffff:")).is_loopback, each


def test_exceptions_exist_and_say_why(found: list[Listener]) -> None:
    rows = listeners.exceptions()
    for row in rows.values():
        assert len(row["reason"]) > 10
        assert row["authentication"]
    running = {each.component for each in found}
    listed = {key for key in rows if key[0] in running and key[1] != "metrics"}
    assert listed <= {(each.component, each.name) for each in found}


def test_strangers_are_refused_everywhere(
    last_run: Any, found: list[Listener], tmp_path: Path
) -> None:
    rows, visitors = listeners.exceptions(), clients.unknown(last_run.mesh, tmp_path)
    wrong: list[str] = []
    for each in found:
        row = rows.get((each.component, each.name))
        if row is not None and row.get("anyone"):
            continue
        right = listeners.of_the_mesh(last_run.mesh, RIGHT.get(each.component, "deploy"))
        # openbao's peers have an authority of their own: nobody of the mesh is one.
        expected = "refused" if each.component == "openbao" else None
        outcomes = {v.name: clients.outcome(each, v) for v in visitors}
        outcomes[right.name] = clients.outcome(each, right)
        let_in = [v.name for v in visitors if outcomes[v.name] != "refused"]
        if let_in or (outcomes[right.name] == "refused") != (expected == "refused"):
            wrong.append(f"{each}: {outcomes}")
    assert wrong == []


def test_tls_1_2_is_spoken_where_it_is_said_alone(last_run: Any, found: list[Listener]) -> None:
    rows, may = listeners.exceptions(), listeners.older()
    spoken, others = set[tuple[str, str]](), set[tuple[str, str]]()
    for each in found:
        if rows.get((each.component, each.name), {}).get("plaintext"):
            continue
        visitor = listeners.of_the_mesh(
            last_run.mesh, RIGHT.get(each.component, "deploy"), ssl.TLSVersion.TLSv1_2
        )
        answers = listeners.served(each, visitor) != -1
        (spoken if answers else others).add((each.component, each.name))
    said = {each for each in spoken | others if each in may or ("", each[1]) in may}
    assert spoken == said


def test_a_service_without_the_right_is_refused(last_run: Any, found: list[Listener]) -> None:
    rows = listeners.exceptions()
    wrong: list[str] = []
    for each in found:
        if (each.component, each.name) in rows or each.component == "openbao":
            continue
        check = CHECKS.get((each.component, each.name)) or CHECKS.get(("", each.name))
        if check is None:
            wrong.append(f"{each}: nobody knows how to come here")
        elif not check(last_run.mesh, each):
            wrong.append(f"{each}: let {WRONG} in")
    assert wrong == []


def test_plaintext_asks_for_what_the_table_says(last_run: Any, found: list[Listener]) -> None:
    rows = listeners.exceptions()
    open_to_all = set[tuple[str, str]]()
    for each in found:
        key = (each.component, each.name)
        if rows.get(key, {}).get("plaintext") and not (
            key in PLAINTEXT and PLAINTEXT[key](last_run.mesh, each)
        ):
            open_to_all.add(key)
    assert open_to_all == {k for k, row in rows.items() if row["authentication"].startswith("none")}


# -- how each protocol says no --------------------------------------------------------------------


def _http(mesh: TestMesh, each: Listener) -> bool:
    path = "/metrics" if each.name == "metrics" else "/"
    url = f"https://127.0.0.1:{each.port}{path}"
    return httpx.get(url, verify=mesh.tls(WRONG), timeout=10).status_code in (401, 403)


def _opensearch(mesh: TestMesh, each: Listener) -> bool:
    """It knows of nobody but its administrators, and says so to all others."""
    url = f"https://127.0.0.1:{each.port}/_cat/indices"
    answer = httpx.get(url, verify=mesh.tls(WRONG), timeout=10)
    return answer.status_code == 503 and "Security not initialized" in answer.text


REFUSED = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)


def _grpc(
    method: str, codes: tuple[grpc.StatusCode, ...] = REFUSED
) -> Callable[[TestMesh, Listener], bool]:
    def check(mesh: TestMesh, each: Listener) -> bool:
        with grpc.secure_channel(f"localhost:{each.port}", mesh.grpc_credentials(WRONG)) as channel:
            call = channel.unary_unary(method)
            try:
                call(b"", timeout=10)
            except grpc.RpcError as error:
                return error.code() in codes  # type: ignore[attr-defined]
        return False

    return check


def _kafka_topics(mesh: TestMesh, each: Listener) -> bool:
    config = client_config(mesh.read(KafkaSettings, WRONG), WRONG) | {
        "bootstrap.servers": f"127.0.0.1:{each.port}"
    }
    return not AdminClient(config).list_topics(timeout=20).topics


def _kafka_quorum(mesh: TestMesh, each: Listener) -> bool:
    """DescribeQuorum, version 0 (https://kafka.apache.org/protocol), isn't authorized."""
    topic = b"__cluster_metadata"
    body = struct.pack(">hhih", 55, 0, 7, -1) + b"\0"
    body += b"\x02" + bytes([len(topic) + 1]) + topic + b"\x02" + struct.pack(">i", 0) + b"\0\0\0"
    answer = _exchange(mesh, each, struct.pack(">i", len(body)) + body)
    # Size, correlation id, no tags, error code.
    return struct.unpack_from(">h", answer, 9)[0] == 31


def _redis(mesh: TestMesh, each: Listener) -> bool:
    return _exchange(mesh, each, b"PING\r\n").startswith(b"-NOAUTH")


def _cassandra(mesh: TestMesh, each: Listener) -> bool:
    try:
        with cassandra_session.connect(f"127.0.0.1:{each.port}", mesh.home.tls / WRONG):
            return False
    except AccessError:
        return True


def _exchange(mesh: TestMesh, each: Listener, request: bytes) -> bytes:
    visitor = listeners.of_the_mesh(mesh, WRONG)
    with (
        socket.create_connection((each.host, each.port), timeout=10) as plain,
        visitor.context().wrap_socket(plain) as secured,
    ):
        secured.sendall(request)
        try:
            return secured.recv(4096)
        except ssl.SSLError:
            return b""


def _password(mesh: TestMesh, each: Listener) -> bool:
    return httpx.get(f"http://127.0.0.1:{each.port}/").status_code == 401


def _signature(mesh: TestMesh, each: Listener) -> bool:
    url = f"http://127.0.0.1:{each.port}/1,01637037d6"
    return {httpx.get(url).status_code, httpx.put(url, content=b"x").status_code} == {401}


def _nodetool(mesh: TestMesh, each: Listener) -> bool:
    try:
        renewals.nodetool(mesh.mesh, "info")
    except subprocess.CalledProcessError:
        return True
    return False


def _spark(mesh: TestMesh, each: Listener) -> bool:
    """Py4j says what is wrong, a worker its process's id and `err`, others nothing."""
    answer = b""
    try:
        plain = socket.create_connection((each.host, each.port), timeout=2)
    except ConnectionRefusedError:
        return True  # Spark has replaced the daemon of its workers since it was listed
    with plain:
        plain.sendall(b"c\nj\ne\n")
        plain.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError, TimeoutError):
            while part := plain.recv(4096):
                answer += part
    if answer.startswith(b"!xsAuthentication") or answer[4:] in (b"", b"\0\0\0\3err"):
        return True
    raise AssertionError(f"{each} answered {answer!r}")


def _handshake(mesh: TestMesh, each: Listener) -> bool:
    return clients.outcome(each, listeners.of_the_mesh(mesh, WRONG)) == "refused"


def _nothing_at(path: str) -> Callable[[TestMesh, Listener], bool]:
    """What would be served there is switched off."""

    def check(mesh: TestMesh, each: Listener) -> bool:
        url = f"https://127.0.0.1:{each.port}{path}"
        return httpx.get(url, verify=mesh.tls(WRONG), timeout=10).status_code == 404

    return check


#: How those without TLS refuse who doesn't show what the table says.
PLAINTEXT: dict[tuple[str, str], Callable[[TestMesh, Listener], bool]] = {
    ("apicurio", "http"): _password,
    ("kafka", "metrics"): _password,
    ("cassandra", "metrics"): _password,
    ("cassandra", "jmx"): _nodetool,
    ("seaweedfs", "volume"): _signature,
    ("spark-stream", "*"): _spark,
}
CHECKS: dict[tuple[str, str], Callable[[TestMesh, Listener], bool]] = {
    ("", "metrics"): _http,
    **{each: _http for each in declared.LISTENERS if each[1] in ("public", "admin", "https")},
    # The master would say where to write to, and sign it; the filer would list and read.
    ("seaweedfs", "master"): _nothing_at("/dir/assign"),
    ("seaweedfs", "filer"): _nothing_at("/"),
    **{("seaweedfs", f"{name}_grpc"): _handshake for name in ("master", "volume", "filer", "s3")},
    **{
        (name, "grpc"): _grpc(declared.first_rpc(apis[0])) for name, apis in declared.SERVED.items()
    },
    ("ratelimit", "grpc"): _handshake,
    ("log-store", "https"): _http,
    ("opensearch", "http"): _opensearch,
    ("registry", "https"): _http,
    ("kafka", "client"): _kafka_topics,
    ("kafka", "controller"): _kafka_quorum,
    ("cassandra", "cql"): _cassandra,
    ("redis", "redis"): _redis,
}
