"""Verification of audit chains: finds changed, removed, reordered and cut-off records.

Pure: records and anchored heads in, findings out. The rules of a chain are in
coinmesh/events/v1/audit_event.proto.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum

from google.protobuf.message import DecodeError

from coinmesh_contracts import framing, topics
from coinmesh_contracts.events.v1.audit_event_pb2 import AuditEvent

GENESIS = bytes(32)
"""The predecessor's hash in the first record of a chain."""


class Fault(Enum):
    """Kinds of faults of a record."""

    CHANGED = "changed"
    REMOVED = "removed"
    REORDERED = "reordered"
    REPEATED = "repeated"
    CUT_OFF = "cut off"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault: kind, writer, sequence, position on the topic, and description."""

    fault: Fault
    writer: str
    sequence: int
    where: str
    text: str

    def __str__(self) -> str:
        place = f" at {self.where}" if self.where else ""
        return f"{self.fault.value}: {self.writer} {self.sequence}{place}: {self.text}"


@dataclass(frozen=True, slots=True)
class Head:
    """The last record of a chain."""

    sequence: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Anchored:
    """Heads that were signed at a time, by writer."""

    number: int
    time: datetime
    heads: Mapping[str, Head]


def hash_of(payload: bytes) -> bytes:
    """Return the hash that identifies a record: of its value without the framing header."""
    return hashlib.sha256(payload).digest()


@dataclass(slots=True)
class _Hole:
    """Missing sequences, with the hash of the record before and the one stated after."""

    first: int
    last: int
    before: bytes | None
    stated: bytes


@dataclass(slots=True)
class _Chain:
    head: Head | None = None
    holes: list[_Hole] = field(default_factory=list[_Hole])


class Chains:
    """All writers' chains, fed record by record in the order of the topic.

    Args:
        anchors: Anchored hashes with which the records are compared.
        heads: Heads from which to continue, if the records before have been checked already.
    """

    def __init__(
        self, anchors: Iterable[Anchored] = (), heads: Mapping[str, Head] | None = None
    ) -> None:
        self._anchors = sorted(anchors, key=lambda anchor: anchor.number)
        self._chains = {writer: _Chain(head) for writer, head in (heads or {}).items()}
        self._stated: dict[tuple[str, int], tuple[int, bytes]] = {}
        for anchor in self._anchors:
            for writer, head in anchor.heads.items():
                self._stated.setdefault((writer, head.sequence), (anchor.number, head.hash))
        self.records = 0

    @property
    def heads(self) -> dict[str, Head]:
        """Return the last record of each writer."""
        return {name: chain.head for name, chain in self._chains.items() if chain.head is not None}

    def add(self, key: bytes | None, value: bytes | None, where: str) -> Iterator[Finding]:
        """Add the next record and yield its faults.

        Args:
            key: Its key.
            value: Its value, framed.
            where: Its position, for people.
        """
        self.records += 1
        try:
            payload = framing.split(value)[1]
            event = AuditEvent.FromString(payload)
        except (framing.FramingError, DecodeError) as error:
            name = (key or b"").decode(errors="replace")
            yield Finding(Fault.UNREADABLE, name, 0, where, str(error))
            return
        writer, sequence = event.writer, event.sequence
        if key != writer.encode() or sequence < 1:
            yield Finding(Fault.CHANGED, writer, sequence, where, f"its key is {key!r}")
            return
        digest = hash_of(payload)
        chain = self._chains.setdefault(writer, _Chain())
        yield from _link(chain, event, digest, where)
        number, stated = self._stated.get((writer, sequence), (0, digest))
        if stated != digest:
            yield Finding(
                Fault.CHANGED, writer, sequence, where, f"anchor {number} has another hash of it"
            )

    def finish(self, now: datetime, retention: timedelta | None = None) -> Iterator[Finding]:
        """Yield missing records, once every record has been added.

        Records at the front may have expired with the topic's retention: that is accepted if an
        anchor older than the retention already covered them.
        """
        kept = retention or timedelta(days=topics.AUDIT.retention_days or 0)
        last: dict[str, tuple[int, Head]] = {}
        expired: dict[str, int] = {}
        for anchor in self._anchors:
            for writer, head in anchor.heads.items():
                if head.sequence >= last.get(writer, (0, Head(0, GENESIS)))[1].sequence:
                    last[writer] = (anchor.number, head)
                if anchor.time <= now - kept:
                    expired[writer] = max(expired.get(writer, 0), head.sequence)
        for writer, chain in sorted(self._chains.items()):
            for hole in chain.holes:
                if hole.first == 1 and hole.last <= expired.get(writer, 0):
                    continue
                count = hole.last - hole.first + 1
                what = f"{count} records" if count > 1 else "the record"
                place = "the front of the chain" if hole.first == 1 else "the middle of the chain"
                yield Finding(Fault.REMOVED, writer, hole.first, "", f"{what} missing from {place}")
        for writer, (number, head) in sorted(last.items()):
            chain = self._chains.get(writer)
            there = chain.head.sequence if chain is not None and chain.head is not None else 0
            if there < head.sequence and not (
                there == 0 and head.sequence <= expired.get(writer, 0)
            ):
                yield Finding(
                    Fault.CUT_OFF,
                    writer,
                    there + 1,
                    "",
                    f"anchor {number} saw records up to {head.sequence}",
                )


def _link(chain: _Chain, event: AuditEvent, digest: bytes, where: str) -> Iterator[Finding]:
    """Insert a record into its chain and yield its faults."""
    writer, sequence, stated = event.writer, event.sequence, event.previous_hash
    head = chain.head
    if head is None or sequence > head.sequence:
        before = head or Head(0, GENESIS)
        if sequence == before.sequence + 1:
            if stated != before.hash:
                yield _unlinked(writer, before.sequence, where)
        else:
            chain.holes.append(_Hole(before.sequence + 1, sequence - 1, before.hash, stated))
        chain.head = Head(sequence, digest)
        return
    hole = next((hole for hole in chain.holes if hole.first <= sequence <= hole.last), None)
    if hole is None:
        text = "there is a record of this number before it"
        yield Finding(Fault.REPEATED, writer, sequence, where, text)
        return
    text = f"it stands behind record {head.sequence}"
    yield Finding(Fault.REORDERED, writer, sequence, where, text)
    chain.holes.remove(hole)
    if sequence > hole.first:
        chain.holes.append(_Hole(hole.first, sequence - 1, hole.before, stated))
    elif hole.before is not None and stated != hole.before:
        yield _unlinked(writer, sequence - 1, where)
    if sequence < hole.last:
        chain.holes.append(_Hole(sequence + 1, hole.last, digest, hole.stated))
    elif hole.stated != digest:
        yield _unlinked(writer, sequence, where)


def _unlinked(writer: str, sequence: int, where: str) -> Finding:
    if sequence == 0:
        text = "the first record names a predecessor"
        return Finding(Fault.CHANGED, writer, 1, where, text)
    text = f"record {sequence + 1} states another hash of it"
    return Finding(Fault.CHANGED, writer, sequence, where, text)
