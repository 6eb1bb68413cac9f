"""Settings of the Spark application; workers read the same environment as the driver."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from coinmesh_contracts.serving import INTERVALS
from coinmesh_spark.fold import Rules
from coinmesh_spark.trades import MICROS
from meshkit.settings import (
    CassandraSettings,
    KafkaSettings,
    RegistrySettings,
    S3Settings,
    ServiceSettings,
    TelemetrySettings,
)


def _intervals(text: str) -> str:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in INTERVALS]:
        raise ValueError(f"{unknown[0]!r} is none of {', '.join(INTERVALS)}")
    return ",".join(names)


class WorkerSettings(TelemetrySettings, KafkaSettings, RegistrySettings, CassandraSettings):
    """Settings of a task that folds trades."""

    service_name: str = Field(
        "spark-stream", min_length=1, description="the job's name", examples=["spark-stream"]
    )
    spark_ahead_seconds: float = Field(
        300.0,
        ge=0,
        description="how far an event may lie ahead of its append to the log",
        examples=["300"],
    )


class ArchiveSettings(TelemetrySettings, KafkaSettings, RegistrySettings, S3Settings):
    """Settings of an archive task."""

    service_name: str = Field(
        "spark-stream", min_length=1, description="the job's name", examples=["spark-stream"]
    )


class StreamSettings(WorkerSettings, ArchiveSettings, ServiceSettings):
    """Settings of the whole application."""

    service_name: str = Field(
        "spark-stream", min_length=1, description="the job's name", examples=["spark-stream"]
    )
    spark_checkpoint_dir: Path = Field(
        description="where Spark keeps its progress", examples=[".coinmesh/data/spark/checkpoint"]
    )
    spark_snapshot_dir: Path = Field(
        description="where the fold's state is kept; driver and workers must share it",
        examples=[".coinmesh/data/spark/snapshots"],
    )
    spark_jars: Path = Field(
        description="the directory of Spark's Kafka connector and its dependencies",
        examples=["~/.cache/coinmesh/spark-jars-4.2.0"],
    )
    spark_master: str = Field(
        "local[4]", description="Spark's master", examples=["local[4]"], min_length=1
    )
    spark_driver_memory: str = Field(
        "640m", pattern=r"^\d+[mg]$", description="the driver's heap", examples=["640m"]
    )
    spark_start_seconds: float = Field(
        60.0, gt=0, description="how long to wait for Kafka at start", examples=["60"]
    )
    spark_java_options: str = Field(
        "", description="further options of the driver's JVM", examples=["-Xss2m"]
    )
    spark_trigger: float = Field(
        1.0, ge=0, description="seconds between the starts of two batches", examples=["1"]
    )
    spark_max_offsets: int = Field(
        200_000, gt=0, description="trades per batch at most", examples=["200000"]
    )
    spark_archive_trigger: float = Field(
        60.0,
        gt=0,
        description="longest time between two archive batches, in seconds",
        examples=["60"],
    )
    spark_archive_max_offsets: int = Field(
        400_000, gt=0, description="records per archive batch at most", examples=["400000"]
    )
    spark_archive_max_bytes: int = Field(
        64 << 20,
        gt=0,
        description="bytes of values per archive object at most",
        examples=["67108864"],
    )
    spark_indicator_intervals: Annotated[str, AfterValidator(_intervals)] = Field(
        ",".join(INTERVALS),
        description="the intervals that have indicators, separated by commas",
        examples=["1s,1m,1h"],
    )
    spark_disorder_seconds: float = Field(
        2.0,
        ge=0,
        description="how far out of order an instrument's trades may come",
        examples=["2"],
    )
    spark_idle_seconds: float = Field(
        10.0,
        ge=0,
        description="how far an instrument may lag behind its partition's event time",
        examples=["10"],
    )
    spark_horizon_seconds: float = Field(
        300.0, ge=1, description="how long a closed bar takes trades", examples=["300"]
    )

    def rules(self) -> Rules:
        """Return the parameters of the fold."""
        return Rules(
            disorder=round(self.spark_disorder_seconds * MICROS),
            idle=round(self.spark_idle_seconds * MICROS),
            horizon=timedelta(seconds=self.spark_horizon_seconds) // timedelta(microseconds=1),
            indicator_intervals=frozenset(self.spark_indicator_intervals.split(",")) - {""},
        )
