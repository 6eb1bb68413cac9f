"""Tells components of a renewed certificate that don't see it by themselves.

The agent that makes certificates runs it as a hook: `python -m coinmesh_local.renewals HOME NAME`.
It can be run again at any time.
"""

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from coinmesh_local import operations
from coinmesh_local.mesh import Mesh
from coinmesh_local.paths import Home
from coinmesh_local.steps import dispatch
from meshkit.settings import KafkaSettings, RedisSettings

TIMEOUT = 30.0
#: The brokers' listeners, as kafka.properties names them.
KAFKA_LISTENERS = ("mtls", "controller")


def kafka(mesh: Mesh) -> None:
    """Brokers read the keystore again when their setting is set, even to what it is.

    Three of them are then restarted one after the other: what they open themselves, to each other
    and to the controllers, they open with the certificate of their start.
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
    for number in brokers:  # librdkafka takes one broker a call
        resource = ConfigResource(ResourceType.BROKER, str(number), incremental_configs=entries)
        for future in admin.incremental_alter_configs([resource]).values():
            future.result(timeout=TIMEOUT)
    if len(brokers) > 1:
        for instance in stale(mesh, "kafka"):
            restart(mesh, instance)


def cassandra(mesh: Mesh) -> None:
    """`nodetool reloadssl`; by itself Cassandra looks every ten minutes."""
    password = mesh.home.run / "cassandra" / "nodetool.password"
    nodetool(mesh, "-u", "nodetool", "-pwf", str(password), "reloadssl")


def nodetool(mesh: Mesh, *words: str) -> None:
    """Run `nodetool`; subprocess's errors."""
    run = mesh.home.run / "cassandra"
    context = mesh.context("cassandra", 1)
    arguments = (run / "java.arguments").read_text().splitlines()
    subprocess.run(
        [
            f"{context['jdk17']}/bin/java",
            *("-Xmx64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
            # It opens the same of Java's own classes as the node does.
            *(each for each in arguments if each.startswith("--add-")),
            f"-Dlogback.configurationFile={run}/logback.xml",
            *("-cp", f"{context['cache.cassandra']}/*", "org.apache.cassandra.tools.NodeTool"),
            *("-h", context["host"], "-p", context["port.jmx"], *words),
        ],
        check=True,
        timeout=TIMEOUT,
    )


def redis(mesh: Mesh) -> None:
    """`CONFIG SET` of the same files, then an end to connections that saw the old certificate."""
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


def restart(mesh: Mesh, name: str) -> None:
    """Stop and start a component that knows no other way."""
    operations.ask(mesh.home, "restart", [name]).answer()


HOOKS: Mapping[str, Callable[[Mesh], None]] = {
    "kafka": kafka,
    "cassandra": cassandra,
    "redis": redis,
    # Its Kafka clients read their keystore when they are made.
    "apicurio": lambda mesh: restart(mesh, "apicurio"),
    # It would read its certificate again within five hours.
    "seaweedfs": lambda mesh: restart(mesh, "seaweedfs"),
}


def stale(mesh: Mesh, name: str) -> list[str]:
    """The component's instances that run since before its certificate was made."""
    made = (mesh.home.tls / name / "current" / "tls.crt").stat().st_mtime
    rows = [row for row in operations.status(mesh) if row["component"] == name]
    return [row["name"] for row in rows if row["started"] is not None and row["started"] < made]


def main() -> int:
    """Exit status 0 when the component has taken the certificate up, or had it from its start."""
    mesh, name = Mesh.recorded(Home(Path(sys.argv[1]))), sys.argv[2]
    if stale(mesh, name):
        HOOKS[name](mesh)
    return 0


if __name__ == "__main__":
    sys.exit(main())
