"""Chains of audit records and their anchors: every kind of tampering is found and named."""

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from coinmesh_audit import anchors as audit_anchors
from coinmesh_audit.anchors import AnchorError
from coinmesh_audit.chain import GENESIS, Anchored, Chains, Fault, Finding, Head, hash_of
from coinmesh_contracts import framing
from coinmesh_contracts.events.v1.audit_event_pb2 import AuditEvent

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
YEAR = timedelta(days=365)
HEADER = framing.header(7)
Record = tuple[bytes, bytes]


def chain(writer: str, length: int) -> list[Record]:
    """A good chain."""
    records: list[Record] = []
    before = GENESIS
    for number in range(1, length + 1):
        event = AuditEvent(
            writer=writer, sequence=number, previous_hash=before, object=f"o{number}", count=1
        )
        payload = event.SerializeToString()
        before = hash_of(payload)
        records.append((writer.encode(), HEADER + payload))
    return records


def head(records: list[Record]) -> Head:
    payload = records[-1][1][framing.HEADER_SIZE :]
    return Head(AuditEvent.FromString(payload).sequence, hash_of(payload))


def anchor(*chains: list[Record], number: int = 1, time: datetime = NOW) -> Anchored:
    return Anchored(number, time, {records[0][0].decode(): head(records) for records in chains})


def check(records: list[Record], *anchors: Anchored) -> list[Finding]:
    found: list[Finding] = []
    chains = Chains(anchors)
    for offset, (key, value) in enumerate(records):
        found += chains.add(key, value, f"0@{offset}")
    return [*found, *chains.finish(NOW, YEAR)]


def faults(found: list[Finding]) -> list[tuple[Fault, int]]:
    return [(each.fault, each.sequence) for each in found]


def altered(record: Record) -> Record:
    """The record with another object; its place in the chain stays."""
    event = AuditEvent.FromString(record[1][framing.HEADER_SIZE :])
    event.object += "?"
    return record[0], HEADER + event.SerializeToString()


@given(st.integers(1, 6), st.integers(1, 6), st.randoms())
def test_good_chains_are_good_however_they_are_interleaved(a: int, b: int, random: Any) -> None:
    one, other = chain("a", a), chain("b", b)
    sources = [one] * a + [other] * b
    random.shuffle(sources)
    ways = {id(one): iter(one), id(other): iter(other)}
    assert check([next(ways[id(s)]) for s in sources], anchor(one, other)) == []


@given(st.integers(2, 12), st.data())
def test_a_changed_record_is_named(length: int, data: Any) -> None:
    records = chain("w", length)
    at = data.draw(st.integers(0, length - 1))
    tampered = [*records[:at], altered(records[at]), *records[at + 1 :]]
    assert set(faults(check(tampered, anchor(records)))) == {(Fault.CHANGED, at + 1)}


def test_a_change_that_is_carried_on_through_the_chain_shows_in_the_anchor() -> None:
    real, forged = chain("w", 3), chain("w", 1)
    before = head(forged := [altered(forged[0])]).hash
    for number in (2, 3):
        payload = AuditEvent(writer="w", sequence=number, previous_hash=before).SerializeToString()
        forged.append((b"w", HEADER + payload))
        before = hash_of(payload)
    assert check(forged) == []
    assert faults(check(forged, anchor(real))) == [(Fault.CHANGED, 3)]


@given(st.integers(3, 12), st.data())
def test_removed_records_are_named(length: int, data: Any) -> None:
    records = chain("w", length)
    first = data.draw(st.integers(0, length - 2))
    last = data.draw(st.integers(first, length - 2))
    found = check([*records[:first], *records[last + 1 :]], anchor(records))
    assert faults(found) == [(Fault.REMOVED, first + 1)]
    assert (f"{last - first + 1} records" in found[0].text) == (last > first)


@given(st.integers(2, 12), st.data())
def test_reordered_records_are_named(length: int, data: Any) -> None:
    records = chain("w", length)
    at = data.draw(st.integers(0, length - 2))
    records[at], records[at + 1] = records[at + 1], records[at]
    assert faults(check(records)) == [(Fault.REORDERED, at + 1)]


@given(st.permutations(range(8)))
def test_any_order_but_the_right_one_is_found_and_only_that(order: list[int]) -> None:
    records = chain("w", 8)
    kinds = {each.fault for each in check([records[at] for at in order], anchor(records))}
    assert kinds == (set() if order == sorted(order) else {Fault.REORDERED})


@given(st.integers(2, 12), st.data())
def test_a_chain_that_was_cut_off_shows_in_the_anchor(length: int, data: Any) -> None:
    records = chain("w", length)
    kept = data.draw(st.integers(0, length - 1))
    assert check(records[:kept]) == []
    assert faults(check(records[:kept], anchor(records))) == [(Fault.CUT_OFF, kept + 1)]


def test_a_repeated_record_and_one_under_a_foreign_key_are_named() -> None:
    records = chain("w", 2)
    assert faults(check([*records, records[0]])) == [(Fault.REPEATED, 1)]
    assert faults(check([(b"x", records[0][1])])) == [(Fault.CHANGED, 1)]


@given(st.binary(max_size=40))
def test_bytes_that_are_no_record_are_told(value: bytes) -> None:
    found = check([(b"w", value), *chain("w", 2)])
    assert [each.fault for each in found][:1] in ([Fault.UNREADABLE], [Fault.CHANGED])


def test_records_that_outlived_the_retention_are_no_loss() -> None:
    records = chain("w", 5)
    old = anchor(records[:2], time=NOW - YEAR - timedelta(days=1))
    new = anchor(records, number=2)
    assert check(records[2:], old, new) == []
    assert faults(check(records[3:], old, new)) == [(Fault.REMOVED, 1)]
    gone = anchor(records, time=NOW - YEAR - timedelta(days=1))
    assert check([], gone) == []


# -- anchors ------------------------------------------------------------------------------------

SIGNER = Ed25519PrivateKey.generate()
KEYS = {1: SIGNER.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)}


def signed(document: bytes, signer: Ed25519PrivateKey = SIGNER) -> bytes:
    signature = base64.b64encode(signer.sign(document)).decode()
    return audit_anchors.seal(document, f"vault:v1:{signature}")


def test_an_anchor_is_read_as_it_was_written() -> None:
    heads = {"b": Head(2, bytes(32)), "a": Head(9, b"\1" * 32)}
    document = audit_anchors.document(3, NOW, heads, 17, "ab")
    read = audit_anchors.open_sealed(signed(document), KEYS)
    assert read.anchored == Anchored(3, NOW, heads)
    assert (read.previous, read.offset) == ("ab", 17)


@given(st.data())
def test_an_anchor_with_any_byte_changed_is_refused(data: Any) -> None:
    sealed = signed(audit_anchors.document(1, NOW, {"w": Head(1, bytes(32))}, 1, ""))
    at = data.draw(st.integers(0, len(sealed) - 1))
    flipped = bytes([sealed[at] ^ data.draw(st.integers(1, 255))])
    with pytest.raises(AnchorError):
        audit_anchors.open_sealed(sealed[:at] + flipped + sealed[at + 1 :], KEYS)


@pytest.mark.slow
@given(st.binary() | st.recursive(st.none() | st.text(), st.lists).map(json.dumps))
def test_what_a_stranger_signed_or_nobody_is_refused(content: Any) -> None:
    document = content if isinstance(content, bytes) else content.encode()
    for sealed in (document, signed(document), signed(document, Ed25519PrivateKey.generate())):
        with pytest.raises(AnchorError):
            audit_anchors.open_sealed(sealed, KEYS)


def test_missing_and_replaced_anchors_are_told() -> None:
    anchors = []
    previous = ""
    for number in range(1, 6):
        document = audit_anchors.document(number, NOW, {}, number, previous)
        anchors.append(audit_anchors.open_sealed(signed(document), KEYS))
        previous = anchors[-1].hash
    assert list(audit_anchors.broken_links(anchors)) == []
    assert list(audit_anchors.broken_links(anchors[2:])) == []
    (missing,) = audit_anchors.broken_links([anchors[0], *anchors[3:]])
    assert missing == "anchors 2 to 3 are missing"
    other = audit_anchors.document(2, NOW, {"x": Head(1, bytes(32))}, 2, anchors[0].hash)
    replaced = audit_anchors.open_sealed(signed(other), KEYS)
    (told,) = audit_anchors.broken_links([anchors[0], replaced, *anchors[2:]])
    assert "anchor 3 doesn't follow anchor 2" in told
