"""What all event contracts have in common."""

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

from coinmesh_contracts import topics
from coinmesh_contracts.sources import descriptor_set

PREFIX = "coinmesh/events/"
FIELD = FieldDescriptorProto
# name, type, repeated, proto3 optional; by number from 1
LEADING = [
    ("event_id", FIELD.TYPE_STRING, False, False),
    ("event_time", FIELD.TYPE_INT64, False, True),
    ("receive_time", FIELD.TYPE_INT64, False, False),
    ("source", FIELD.TYPE_STRING, False, False),
    ("type", FIELD.TYPE_ENUM, False, False),
    ("instrument", FIELD.TYPE_STRING, False, False),
    ("symbol", FIELD.TYPE_STRING, False, False),
    ("metadata", FIELD.TYPE_MESSAGE, True, False),
]
FILES = [
    file
    for file in FileDescriptorSet.FromString(descriptor_set()).file
    if file.name.startswith(PREFIX)
]
EVENTS = {file.name: file for file in FILES if file.message_type}


def shape(field: FIELD) -> tuple[str, int, bool, bool]:
    repeated = field.label == FIELD.LABEL_REPEATED
    return field.name, field.type, repeated, field.proto3_optional


def parts(file: FileDescriptorProto) -> set[str]:
    """The messages that the file's first message is made of."""
    by_name = {f".{file.package}.{message.name}": message for message in file.message_type}
    found: set[str] = set()

    def visit(message: DescriptorProto) -> None:
        for field in message.field:
            if field.type_name in by_name and field.type_name not in found:
                found.add(field.type_name)
                visit(by_name[field.type_name])

    visit(file.message_type[0])
    return {by_name[name].name for name in found}


def test_there_are_events() -> None:
    assert {"trade.proto", "bar.proto", "gap.proto"} <= {n.rpartition("/")[2] for n in EVENTS}


@pytest.mark.parametrize("name", EVENTS)
def test_the_leading_fields_are_the_same(name: str) -> None:
    event = EVENTS[name].message_type[0]
    leading = [field for field in event.field if field.number <= len(LEADING)]
    assert [field.number for field in event.field[: len(LEADING)]] == list(
        range(1, len(LEADING) + 1)
    )
    assert [shape(field) for field in leading] == LEADING
    assert leading[4].type_name == ".coinmesh.events.v1.EventType"
    entry = next(nested for nested in event.nested_type if nested.options.map_entry)
    assert leading[7].type_name.endswith(f".{event.name}.{entry.name}")
    assert [field.type for field in entry.field] == [FIELD.TYPE_STRING, FIELD.TYPE_STRING]


@pytest.mark.parametrize("name", EVENTS)
def test_lease_epoch_has_the_same_number_in_every_event(name: str) -> None:
    (epoch,) = [f for f in EVENTS[name].message_type[0].field if f.name == "epoch"]
    assert (epoch.number, epoch.type) == (50, FIELD.TYPE_UINT64)


@pytest.mark.parametrize("name", EVENTS)
def test_a_file_holds_one_event_first_and_its_parts(name: str) -> None:
    event, *others = EVENTS[name].message_type
    assert name == f"{PREFIX}v1/{_snake(event.name)}.proto"
    assert {other.name for other in others} == parts(EVENTS[name])
    assert not any(field.name == "event_id" for other in others for field in other.field)


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).removeprefix("_")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_events_import_google_protobuf_and_events_only(file: FileDescriptorProto) -> None:
    foreign = [d for d in file.dependency if not d.startswith(("google/protobuf/", PREFIX))]
    assert not foreign


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_what_an_event_imports_holds_no_message(file: FileDescriptorProto) -> None:
    """Else its registered reference would hold a first message that is no event of a topic."""
    assert not [d for d in file.dependency if d in EVENTS]


def test_every_topic_carries_the_first_message_of_its_file() -> None:
    for topic in topics.ALL:
        if topic.message is not None:
            descriptor = topic.message.DESCRIPTOR
            assert next(iter(descriptor.file.message_types_by_name)) == descriptor.name


def test_every_event_has_a_topic_and_a_type() -> None:
    carried = {topic.message.DESCRIPTOR.file.name for topic in topics.ALL if topic.message}
    assert carried == set(EVENTS)
    (types,) = [e for f in FILES for e in f.enum_type if e.name == "EventType"]
    assert len(types.value) - 1 >= len(EVENTS)


@pytest.mark.parametrize("name", EVENTS)
def test_no_number_in_an_event_is_a_float(name: str) -> None:
    floats = (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT)
    fields = [field for message in EVENTS[name].message_type for field in message.field]
    assert not [field.name for field in fields if field.type in floats]
