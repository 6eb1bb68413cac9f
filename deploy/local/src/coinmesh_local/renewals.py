"""Reload the certificate of components that don't watch it themselves, and check the effect.

The certificate agent runs it as a hook: `python -m coinmesh_local.renewals HOME NAME`. It is
idempotent. Exit status 1 means that a listener still serves another certificate; the agent counts
the failure and retries.
"""

import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from coinmesh_local import operations, processes
from coinmesh_local.mesh import Mesh
from coinmesh_local.paths import Home
from coinmesh_local.ports import HOST
from coinmesh_local.steps import dispatch
from meshkit.settings import KafkaSettings, RedisSettings

TIMEOUT = 30.0
#: Maximum time between reading a new certificate and serving it.
EFFECT_SECONDS, POLL_SECONDS = 10.0, 0.2
#: The brokers' listeners, as named in kafka.properties.
KAFKA_LISTENERS = ("mtls", "controller")


def kafka(mesh: Mesh) -> None:
    """Set the brokers' keystore location again, which makes them reread it even if unchanged.

    A cluster of several brokers is then restarted one by one: connections that brokers open, to
    each other and to the controllers, keep the certificate of their start.
    """
    from meshkit.kafka import client_config, client_log
    from meshkit.kafka_admin import (
        AdminClient,
        AlterConfigOpType,
        ConfigEntry,
        ConfigResource,
        ResourceType,
    )

    settings = dispatch.read(KafkaSettings, mesh.settings())
    admin = AdminClient(client_config(settings, "renewals"), logger=client_log())
    path = str(mesh.home.tls / "kafka" / "current" / "keystore.pem")
    entries = [
        ConfigEntry(
            f"listener.name.{listener}.ssl.keystore.location",
            path,
            incremental_operation=AlterConfigOpType.SET,
        )
        for listener in KAFKA_LISTENERS
    ]
    brokers = sorted(admin.list_topics(timeout=TIMEOUT).brokers)
    for number in brokers:  # librdkafka accepts one broker per call
        resource = ConfigResource(ResourceType.BROKER, str(number), incremental_configs=entries)
        for future in admin.incremental_alter_configs([resource]).values():
            future.result(timeout=TIMEOUT)
    if len(brokers) > 1:
        for instance in stale(mesh, "kafka"):
            restart(mesh, instance)


def cassandra(mesh: Mesh) -> None:
    """Run `nodetool reloadssl`; otherwise Cassandra checks only every ten minutes."""
    password = mesh.home.run / "cassandra" / "nodetool.password"
    nodetool(mesh, "-u", "nodetool", "-pwf", str(password), "reloadssl")


def nodetool(mesh: Mesh, *words: str) -> None:
    """Run `nodetool`; raise subprocess's errors."""
    run = mesh.home.run / "cassandra"
    context = mesh.context("cassandra", 1)
    arguments = (run / "java.arguments").read_text().splitlines()
    subprocess.run(
        [
            f"{context['jdk17']}/bin/java",
            *("-Xmx64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
            # nodetool opens the same Java-internal packages as the node.
            *(each for each in arguments if each.startswith("--add-")),
            f"-Dlogback.configurationFile={run}/logback.xml",
            *("-cp", f"{context['cache.cassandra']}/*", "org.apache.cassandra.tools.NodeTool"),
            *("-h", context["host"], "-p", context["port.jmx"], *words),
        ],
        check=True,
        timeout=TIMEOUT,
    )


def redis(mesh: Mesh) -> None:
    """Set the same files by `CONFIG SET`, then close connections made with the old certificate."""
    from redis import Redis

    from meshkit.redis_options import redis_options

    settings = dispatch.read(RedisSettings, mesh.settings())
    current = f"{mesh.home.tls}/redis/current"
    with Redis.from_url(settings.redis_url, **redis_options(settings)) as client:
        client.execute_command(
            *("CONFIG", "SET", "tls-cert-file", f"{current}/tls.crt"),
            *("tls-key-file", f"{current}/tls.key", "tls-ca-cert-file", f"{current}/ca.crt"),
        )
        client.client_kill_filter(_type="normal", skipme=True)


def openbao(mesh: Mesh) -> None:
    """Send SIGHUP, on which OpenBao rereads its listener's certificate.

    SIGHUP would terminate an OpenBao that doesn't listen yet; it reads the certificate at its
    start.
    """
    running = processes.find(mesh.home.root).get("openbao")
    if running is None or running.leader is None:
        return
    with socket.create_connection((HOST, mesh.ports["openbao"]["api"][0]), timeout=TIMEOUT):
        processes.send(running.leader, signal.SIGHUP)


def restart(mesh: Mesh, name: str) -> None:
    """Stop and start a component that cannot reload its certificate."""
    operations.ask(mesh.home, "restart", [name]).answer()


HOOKS: Mapping[str, Callable[[Mesh], None]] = {
    "kafka": kafka,
    "cassandra": cassandra,
    "redis": redis,
    "openbao": openbao,
    # Its Kafka clients read their keystore when they are created.
    "apicurio": lambda mesh: restart(mesh, "apicurio"),
    # It would reread its certificate only within five hours.
    "seaweedfs": lambda mesh: restart(mesh, "seaweedfs"),
}


#: The port whose listener serves the certificate; apicurio has client connections only.
LISTENERS: Mapping[str, str] = {
    "kafka": "client",
    "cassandra": "cql",
    "redis": "redis",
    "openbao": "api",
    "seaweedfs": "s3",
}


def certificate(mesh: Mesh, name: str) -> Path:
    """Return the path of the component's certificate; OpenBao's is not issued by the mesh."""
    directory = mesh.home.secrets if name == "openbao" else mesh.home.tls
    return directory / name / "current" / "tls.crt"


def stale(mesh: Mesh, name: str) -> list[str]:
    """Return the component's running instances that started before its certificate was issued.

    Start times come from /proc: the supervisor may be dead, or so new that it has no runners yet.
    """
    issued_at = certificate(mesh, name).stat().st_mtime
    running = processes.find(mesh.home.root)
    stale_instances: list[str] = []
    for instance in mesh.instance_names(name):
        started_at = running[instance].started() if instance in running else None
        if started_at is not None and started_at < issued_at:
            stale_instances.append(instance)
    return stale_instances


def outdated_listeners(mesh: Mesh, name: str) -> list[str]:
    """Return the reason for each instance that serves another certificate; empty when none does."""
    port = LISTENERS.get(name)
    if port is None:
        return [f"{instance} was started before its certificate" for instance in stale(mesh, name)]
    issued = ssl.PEM_cert_to_DER_cert(_first_certificate(mesh, name))
    running = processes.find(mesh.home.root)
    problems: list[str] = []
    for index, instance in enumerate(mesh.instance_names(name)):
        if instance not in running:
            continue  # it reads the certificate when it starts
        address = (HOST, mesh.ports[name][port][index])
        try:
            served = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(address, timeout=TIMEOUT))
        except OSError as error:
            problems.append(f"{instance} at {address[0]}:{address[1]} is unreachable: {error}")
            continue
        if served != issued:
            problems.append(f"{instance} at {address[0]}:{address[1]} serves another certificate")
    return problems


def _first_certificate(mesh: Mesh, name: str) -> str:
    """Return the leaf of the component's chain, PEM."""
    chain = certificate(mesh, name).read_text()
    end = "-----END CERTIFICATE-----"
    return chain[: chain.index(end) + len(end)] + "\n"


def main() -> int:
    """Return exit status 0 when every running instance uses the current certificate, else 1."""
    mesh, name = Mesh.recorded(Home(Path(sys.argv[1]))), sys.argv[2]
    if stale(mesh, name):
        HOOKS[name](mesh)
    deadline = time.monotonic() + EFFECT_SECONDS
    while (problems := outdated_listeners(mesh, name)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
