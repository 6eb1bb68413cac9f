"""Creates the Spark session with its settings."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, cast

from py4j.java_gateway import JavaObject
from pyspark.java_gateway import ensure_callback_server_started
from pyspark.sql import SparkSession

from coinmesh_spark.settings import StreamSettings
from meshkit.settings import PREFIX, SettingsError
from meshkit.tls import certificate_files

LOG4J2 = Path(__file__).with_name("log4j2.xml")
BARS_POOL = "bars"
ARCHIVE_POOL = "archive"
_POOL = (
    '<pool name="{}"><schedulingMode>FIFO</schedulingMode>'
    "<weight>{}</weight><minShare>{}</minShare></pool>"
)
_POOLS = (
    '<?xml version="1.0"?><allocations>'
    f"{_POOL.format(BARS_POOL, 100, 4)}{_POOL.format(ARCHIVE_POOL, 1, 0)}</allocations>"
)
"""Tasks of the bars have priority for free slots."""


def start(settings: StreamSettings) -> SparkSession:
    """Start Spark in this process.

    Raises:
        SettingsError: The directory of the Kafka connector's jars is missing or empty.
    """
    jars = settings.spark_jars.expanduser()
    if not list(jars.glob("spark-sql-kafka*.jar")):
        raise SettingsError(
            f"{PREFIX}SPARK_JARS: {jars} has no spark-sql-kafka jar; bring it there with: "
            "coinmesh up --until spark-stream"
        )
    # Workers are forked from a daemon that the JVM starts with this interpreter.
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    os.environ["TZ"] = "UTC"
    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    # Each worker folds one partition; more threads would only compete for the cores.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Return the memory of a big batch to the system.
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    scratch = settings.spark_checkpoint_dir.parent / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    pools = scratch / "pools.xml"
    pools.write_text(_POOLS)
    builder = SparkSession.builder
    for name, value in _configuration(settings, jars, scratch, pools).items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("WARN")
    _close_callbacks(session)
    return session


def _close_callbacks(session: SparkSession) -> None:
    """Require the token on Python's port for `foreachBatch`, which PySpark leaves unprotected.

    Py4j's client in the JVM loses the token when the port is set, and has no API to set it again.
    """
    gateway = cast(Any, session.sparkContext._gateway)  # pyright: ignore[reportPrivateUsage]
    token = gateway.java_parameters.auth_token
    gateway.python_parameters.auth_token = token
    ensure_callback_server_started(gateway)
    server = cast(Any, JavaObject("GATEWAY_SERVER", gateway._gateway_client))
    client = server.getCallbackClient()
    field = gateway.jvm.java.lang.Class.forName("py4j.CallbackClient").getDeclaredField("authToken")
    field.setAccessible(True)
    field.set(client, token)


def _configuration(
    settings: StreamSettings, jars: Path, scratch: Path, pools: Path
) -> dict[str, str]:
    return {
        "spark.app.name": settings.service_name,
        "spark.master": settings.spark_master,
        "spark.driver.memory": settings.spark_driver_memory,
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.extraClassPath": f"{jars}/*",
        # Spark searches a failed batch's message for interruptions with a recursive pattern: a long
        # message overflows the usual stack, and the query would stop without a reason.
        "spark.driver.extraJavaOptions": (
            "-Xss16m -XX:+UseSerialGC -XX:-UsePerfData -XX:MaxMetaspaceSize=256m "
            "-Duser.timezone=UTC "
            f"-Djava.io.tmpdir={scratch} -Dcoinmesh.service={settings.service_name} "
            f"-Dlog4j2.configurationFile={LOG4J2.as_uri()} {settings.spark_java_options}"
        ),
        "spark.local.dir": str(scratch),
        "spark.sql.warehouse.dir": str(scratch / "warehouse"),
        # Spark's own ports require the secret of this start.
        "spark.authenticate": "true",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "4",
        "spark.scheduler.mode": "FAIR",
        "spark.scheduler.allocation.file": pools.as_uri(),
        # One reader per Kafka partition at a time: its fold is sequential.
        "spark.speculation": "false",
        "spark.python.worker.reuse": "true",
        "spark.python.daemon.module": "coinmesh_spark.workers",
        "spark.sql.execution.arrow.maxRecordsPerBatch": "20000",
        "spark.sql.streaming.minBatchesToRetain": "20",
        # The default renames with FileContext, which starts `chmod` and `readlink` several times
        # for each file on a local disk; this one renames as atomically there.
        "spark.sql.streaming.checkpointFileManagerClass": (
            "org.apache.spark.sql.execution.streaming.checkpointing."
            "FileSystemBasedCheckpointFileManager"
        ),
        "spark.sql.streaming.numRecentProgressUpdates": "2",
        "spark.sql.streaming.stopTimeout": "20s",
        "spark.sql.streaming.metricsEnabled": "false",
        "spark.cleaner.periodicGC.interval": "5min",
    }


def jvm_pid(session: SparkSession) -> int:
    """Return the process id of Spark's JVM."""
    jvm = cast(Any, session.sparkContext._jvm)  # pyright: ignore[reportPrivateUsage]
    return int(jvm.java.lang.ProcessHandle.current().pid())


def kafka_options(settings: StreamSettings) -> dict[str, str]:
    """Return Spark's options for its connection to Kafka."""
    options = {
        "kafka.bootstrap.servers": settings.kafka_bootstrap_servers,
        # The default of 500 ms blocks every task that has read all records.
        "kafka.fetch.max.wait.ms": "10",
        "kafka.max.poll.records": "5000",
        "kafka.client.id": settings.service_name,
        "startingOffsets": "earliest",
        "failOnDataLoss": "true",
        # Records of an aborted transaction were never published.
        "kafka.isolation.level": "read_committed",
    }
    files = certificate_files(settings)
    if files is None:
        return options
    current = files.chain.parent
    # As paths: later connections, as after a restart of the query, read the current files.
    return options | {
        "kafka.security.protocol": "SSL",
        "kafka.ssl.truststore.type": "PEM",
        "kafka.ssl.truststore.location": str(files.roots),
        "kafka.ssl.keystore.type": "PEM",
        "kafka.ssl.keystore.location": str(current / "keystore.pem"),
    }
