"""What `coinmesh raw` says of an archive, here one in memory."""

import pytest
from typer.testing import CliRunner

from coinmesh_archive.manifest import Incarnation, Manifest, Partition
from coinmesh_archive.store import manifest_key
from coinmesh_archive.testing import MemoryStore
from coinmesh_cli import raw

TOPIC = "market.trades.v1"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """Three empty days of a topic."""
    store = MemoryStore()
    partitions = {0: Partition(first=0, next=0)}
    manifest = Manifest(
        topic=TOPIC,
        date="2024-02-27",
        incarnations=[Incarnation(topic_id="a", partitions=partitions)],
        origin=True,
    )
    for number in range(3):
        manifest.sealed = number < 2
        store.put(manifest, None)
        manifest = manifest.following()
    monkeypatch.setattr(raw, "_store", lambda: store)
    return store


def verified() -> tuple[int, str]:
    """Exit status and output."""
    result = CliRunner().invoke(raw.app, ["verify"])
    return result.exit_code, result.output


def test_verify_of_a_whole_archive_has_no_fault(store: MemoryStore) -> None:
    assert store.dates(TOPIC)
    assert verified() == (0, "3 days: no faults\n")


@pytest.mark.parametrize(
    ("date", "fault"),
    [
        ("2024-02-27", "2024-02-28: it continues a day before it, which has no manifest"),
        ("2024-02-28", "2024-02-28: it has no manifest"),
    ],
)
def test_verify_names_a_deleted_manifest(store: MemoryStore, date: str, fault: str) -> None:
    store.delete([manifest_key(TOPIC, date)])
    assert verified() == (1, f"{TOPIC} {fault}\n2 days: 1 fault\n")


def test_verify_names_a_damaged_manifest(store: MemoryStore) -> None:
    store.s3.objects[manifest_key(TOPIC, "2024-02-29")] = b"{}"
    status, output = verified()
    assert status == 1
    assert f"{TOPIC} 2024-02-29: the manifest is damaged" in output
