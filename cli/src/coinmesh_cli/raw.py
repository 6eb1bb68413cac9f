"""`coinmesh raw`: content and completeness of the raw archive, and recording of losses."""

import sys
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coinmesh_access.accounting import on_record, operator
from coinmesh_audit.log import AuditSettings
from coinmesh_cli.records import settings_of
from coinmesh_contracts.events.v1 import audit_event_pb2 as pb
from meshkit.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound
from meshkit.settings import KafkaSettings, S3Settings

# pyarrow and boto3 are slow to import: no other command waits for them.
if TYPE_CHECKING:
    from coinmesh_archive.manifest import Manifest
    from coinmesh_archive.store import ArchiveStore
    from coinmesh_archive.topic_log import TopicLogs

app = typer.Typer(no_args_is_help=True, help="The raw archive: list, verify, export, index, skip.")

Topics = Annotated[list[str] | None, typer.Argument(help="Topics; all by default.")]


def register(parent: typer.Typer) -> None:
    """Add the command group to `parent`."""
    parent.add_typer(app, name="raw")


@app.command("list")
def list_days(topics: Topics = None) -> None:
    """List the days of topics: records, objects, bytes, absent and skipped offsets."""
    for manifest in _manifests(_store(), topics):
        parts = [part for one in manifest.incarnations for part in one.partitions.values()]
        objects = [item for part in parts for item in part.objects]
        absent = sum(gap.last - gap.first + 1 for part in parts for gap in part.absent)
        skipped = sum(
            gap.last - gap.first + 1
            for part in parts
            for gap in part.skipped
            if gap.last is not None
        )
        print(
            f"{manifest.topic:<24} {manifest.date}  {sum(i.records for i in objects):>12} records"
            f" {len(objects):>6} objects {sum(i.size for i in objects):>14} bytes"
            f"  {absent} absent, {skipped} skipped{'' if manifest.sealed else ', open'}"
        )


@app.command()
def verify(
    topics: Topics = None,
    date: Annotated[str | None, typer.Option(help="Only this day, YYYY-MM-DD.")] = None,
    *,
    objects: Annotated[
        bool, typer.Option("--objects", help="Also read every object and check its digest.")
    ] = False,
) -> None:
    """Verify by the manifests that each offset is accounted for; exit status 1 for faults.

    Losses recorded by an operator are listed and are no faults.
    """
    from coinmesh_archive.verification import history_faults

    store, days = _store(), 0
    listed, faults = _readable(store, topics)
    for _, manifests in groupby(listed, key=lambda manifest: manifest.topic):
        faults += history_faults(list(manifests))
    for manifest in listed:
        if date not in (None, manifest.date):
            continue
        days += 1
        faults += manifest.faults()
        for line in _losses(manifest):
            print(line)
        if objects:
            faults += _damages(store, manifest)
    for fault in faults:
        print(fault)
    print(f"{days} days: {len(faults) or 'no'} fault{'' if len(faults) == 1 else 's'}")
    if faults or not days:
        sys.exit(1)


@app.command()
def export(
    topic: Annotated[str, typer.Argument(help="The topic.")],
    directory: Annotated[Path, typer.Argument(help="A new or empty directory.", file_okay=False)],
    date: Annotated[str | None, typer.Option(help="Only this day, YYYY-MM-DD.")] = None,
) -> None:
    """Copy archived records to parquet files for `collector-binance replay`."""
    import pyarrow.parquet as pq

    from coinmesh_archive.reader import read_day

    store, records = _store(), 0
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise InvalidArgument("DIRECTORY_NOT_EMPTY", f"{directory} isn't empty")
    for day in [date] if date else store.dates(topic):
        for number, (_, table) in enumerate(read_day(store, topic, day)):
            pq.write_table(table, directory / f"{day}-{number:06d}.parquet")
            records += len(table)
    print(f"{records} records")


@app.command()
def index(topics: Topics = None) -> None:
    """Write manifests, once, for the objects of an archive that has none.

    Stop spark-stream, or start it after this. After an interruption, run it again.
    """
    from coinmesh_archive.index import UNKNOWN_ID, Indexer, is_unfinished

    store, logs = _store(), _logs()
    names = topics or [name for name in store.topics() if is_unfinished(store, name)]
    ids = logs.ids(names) if names else {}
    now = time.time_ns() // 1000
    for name in names:
        for manifest in Indexer(store, name, ids.get(name, UNKNOWN_ID), operator(), now).run():
            count = sum(part.records for part in manifest.current.partitions.values())
            print(f"{name} {manifest.date}: {count} records")


@app.command()
def skip(
    topic: Annotated[str, typer.Argument(help="The topic whose archive has stopped.")],
    reason: Annotated[str, typer.Option(help="Why the records are lost, for the manifest.")],
    partition: Annotated[
        int | None, typer.Option(min=0, help="Skip records of this partition that Kafka has.")
    ] = None,
    until: Annotated[
        int | None, typer.Option(min=1, help="With --partition: the next offset to archive.")
    ] = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask for confirmation.")] = False,
) -> None:
    """Record a loss of records, so that the archive of their topic resumes after them.

    The last resort: retention has deleted records before they were archived, the topic was created
    again or truncated, or a range (--partition, --until) can't be read. It is recorded in the audit
    log.
    """
    from coinmesh_archive import topic_log

    if (partition is None) != (until is None):
        raise InvalidArgument("RANGE_INCOMPLETE", "give --partition and --until together")
    store = _store()
    logs = _logs()
    stored, log = store.newest(topic), logs.read([topic]).get(topic)
    if stored is None or log is None:
        where = "the archive" if stored is None else "Kafka"
        raise NotFound("TOPIC_NOT_FOUND", f"{where} has no topic {topic}")
    manifest = stored.manifest.following() if stored.manifest.sealed else stored.manifest
    lines = topic_log.skip(
        manifest,
        logs.compared(log, manifest),
        reason=reason,
        actor=operator(),
        time=time.time_ns() // 1000,
        until=None if partition is None or until is None else {partition: until},
    )
    if not lines:
        raise FailedPrecondition(
            "NOTHING_LOST", f"Kafka has all that the archive of {topic} must read next"
        )
    print("to be skipped:", *lines, sep="\n  ")
    if not yes:
        typer.confirm("These records will never be archived. Continue?", abort=True)
    etag = None if stored.manifest.sealed else stored.etag
    on_record(
        settings_of(AuditSettings),
        pb.AUDIT_ACTION_RAW_SKIP,
        topic,
        lambda: store.put(manifest, etag),
        detail=f"{'; '.join(lines)}: {reason}",
    )
    print("recorded; the archive resumes at its next batch")


def _store() -> "ArchiveStore":
    from coinmesh_archive.store import ArchiveStore

    return ArchiveStore(settings_of(S3Settings))


def _logs() -> "TopicLogs":
    from confluent_kafka.admin import AdminClient

    from coinmesh_archive.topic_log import TopicLogs
    from meshkit.kafka import client_config, client_log

    config = client_config(settings_of(KafkaSettings), "coinmesh-cli")
    return TopicLogs(AdminClient(config, logger=client_log()))


def _manifests(store: "ArchiveStore", topics: list[str] | None) -> "Iterator[Manifest]":
    """Yield the manifests of topics, by topic and day."""
    for topic in topics or store.topics():
        for date in store.dates(topic):
            if (stored := store.load(topic, date)) is not None:
                yield stored.manifest


def _readable(
    store: "ArchiveStore", topics: list[str] | None
) -> "tuple[list[Manifest], list[str]]":
    """Return the manifests of topics, by topic and day, and a line for each unreadable one."""
    from coinmesh_archive.manifest import ManifestError

    manifests: list[Manifest] = []
    faults: list[str] = []
    for topic in topics or store.topics():
        for date in store.dates(topic):
            try:
                stored = store.load(topic, date)
            except ManifestError as error:
                faults.append(str(error))
            else:
                manifests += [stored.manifest] if stored else []
    return manifests, faults


def _losses(manifest: "Manifest") -> Iterator[str]:
    """Yield a line for each recorded loss."""
    for one in manifest.incarnations:
        if one.ended is not None:
            yield f"{manifest.topic} {manifest.date}: {one.ended.actor} ended {one.topic_id}: " + (
                one.ended.reason
            )
        for number, part in sorted(one.partitions.items()):
            for gap in part.skipped:
                yield (
                    f"{manifest.topic} {manifest.date}, partition {number}: {gap.actor} skipped "
                    f"{gap.first} to {gap.last}: {gap.reason}"
                )


def _damages(store: "ArchiveStore", manifest: "Manifest") -> Iterator[str]:
    """Yield a line for each object that is missing or has another digest than in the manifest."""
    from coinmesh_archive.reader import read_object

    for one in manifest.incarnations:
        for part in one.partitions.values():
            for item in part.objects:
                try:
                    read_object(store, item)
                except (NotFound, DataLoss) as error:
                    yield str(error)
