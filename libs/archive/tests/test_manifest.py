"""A manifest accounts for each offset once, or names what is wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coinmesh_archive.manifest import (
    COMPACTED,
    CONTROL,
    Absent,
    Incarnation,
    KeyStatistics,
    Manifest,
    ManifestError,
    Partition,
    RawObject,
    Skipped,
    decode,
    encode,
)


def raw_object(first, last, records=None):
    return RawObject(
        key=f"raw/t/{first}-{last}",
        first=first,
        last=last,
        records=last - first + 1 if records is None else records,
        size=1,
        payload=1,
        sha256="",
        appended=(0, 0),
        events=None,
        keys={"a": KeyStatistics(1, (1, 2), None)},
    )


def skipped(first, last):
    return Skipped(first=first, last=last, reason="disk lost", actor="os:ann", time=1)


def partition(first, end, *objects, absent=(), skips=()):
    return Partition(
        first=first, next=end, objects=list(objects), absent=list(absent), skipped=list(skips)
    )


def test_objects_compacted_and_skipped_offsets_are_complete():
    day = partition(
        5,
        40,
        raw_object(5, 9),
        raw_object(12, 20, records=7),
        raw_object(31, 35),
        absent=[Absent(10, 11, COMPACTED), Absent(14, 15, COMPACTED), Absent(36, 39, CONTROL)],
        skips=[skipped(21, 30)],
    )
    assert list(day.faults()) == []


@pytest.mark.parametrize(
    ("day", "fault"),
    [
        (partition(0, 9, raw_object(1, 8)), "offsets 0 to 0 are missing"),
        (partition(0, 9, raw_object(0, 3), raw_object(5, 8)), "offsets 4 to 4 are missing"),
        (partition(0, 9, raw_object(0, 7)), "offsets 8 to 8 are missing"),
        (partition(0, 9, raw_object(0, 4), raw_object(4, 8)), "offsets 4 to 4 are listed twice"),
        (partition(0, 9, raw_object(0, 8, records=8)), "has 8 records for 9 offsets"),
        (
            partition(0, 9, raw_object(0, 8, records=8), absent=[Absent(3, 4, COMPACTED)]),
            "has 8 records for 7 offsets",
        ),
    ],
)
def test_unaccounted_offset_is_named(day, fault):
    assert any(fault in found for found in day.faults())


@given(st.lists(st.tuples(st.sampled_from("oas"), st.integers(1, 5)), max_size=12))
def test_any_tiling_is_complete_and_any_removal_is_not(parts):
    day = partition(7, 7)
    for kind, count in parts:
        first, last = day.next, day.next + count - 1
        if kind == "o":
            day.add([raw_object(first, last)], set(), [], last + 1)
        elif kind == "a":
            day.add([], set(), [Absent(first, last, COMPACTED)], last + 1)
        else:
            day.skipped.append(skipped(first, last))
            day.next = last + 1
    assert list(day.faults()) == []
    for entries in (day.objects, day.absent, day.skipped):
        for at in range(len(entries)):
            entry = entries.pop(at)
            assert list(day.faults()) != []
            entries.insert(at, entry)


def test_following_day_begins_where_the_day_before_stopped():
    manifest = Manifest(
        topic="t",
        date="2024-02-28",
        incarnations=[
            Incarnation(topic_id="a", partitions={0: partition(0, 3, raw_object(0, 2))}),
            Incarnation(topic_id="b", partitions={0: partition(0, 9), 1: partition(2, 2)}),
        ],
        retired=["x"],
    )
    following = manifest.following()
    assert following.date == "2024-02-29"
    assert following.incarnations == [
        Incarnation(topic_id="b", partitions={0: partition(9, 9), 1: partition(2, 2)})
    ]
    assert (following.retired, following.sealed) == ([], False)


def test_manifest_reads_back_and_damage_is_reported():
    manifest = Manifest(
        topic="t",
        date="2024-02-28",
        incarnations=[Incarnation(topic_id="a", partitions={3: partition(0, 3, raw_object(0, 2))})],
    )
    data = encode(manifest)
    assert decode(data) == manifest
    assert encode(decode(data)) == data
    for bad in (data[:-9], b"", b"{}", data[:10] + b"\xff" * 9 + data[19:]):
        with pytest.raises(ManifestError, match="damaged"):
            decode(bad)
    manifest.format = 99
    with pytest.raises(ManifestError, match="format 99"):
        decode(encode(manifest))
