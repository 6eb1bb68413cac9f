"""Comparison of .proto contracts: by their normalized text, or field by field."""

from __future__ import annotations

import re

from google.protobuf.descriptor import Descriptor, FieldDescriptor

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_TOKEN = re.compile(r'"[^"]*"|[\w.]+|\S')
_FIELD = re.compile(
    r"\b(?:(?P<label>repeated|optional)\s+)?(?!option\b)(?P<type>map\s*<[^>]+>|[\w.]+)\s+\w+"
    r"\s*=\s*(?P<number>\d+)"
)
_SCALARS = {
    value: name.removeprefix("TYPE_").lower()
    for name, value in vars(FieldDescriptor).items()
    if name.startswith("TYPE_")
}


def normalized(text: str) -> str:
    """Return the text without comments, with one space between tokens."""
    return " ".join(_TOKEN.findall(_COMMENT.sub(" ", text)))


def contradictions(ours: Descriptor, text: str) -> list[str]:
    """Return the field numbers that have another type in the message of the same name in `text`.

    A number that only one side has is no contradiction: proto3 readers skip it or use its default.
    """
    body = _body(_COMMENT.sub(" ", text), ours.name)
    if body is None:
        return [f"it has no message {ours.name}"]
    theirs = {
        int(match["number"]): ("repeated " if match["label"] == "repeated" else "")
        + re.sub(r"\s+", "", match["type"])
        for match in _FIELD.finditer(body)
    }
    return [
        f"field {field.number} is {theirs[field.number]} there and {_type(field)} here"
        for field in ours.fields
        if field.number in theirs and _simple(theirs[field.number]) != _simple(_type(field))
    ]


def _body(text: str, name: str) -> str | None:
    start = re.search(rf"\bmessage\s+{name}\s*\{{", text)
    if start is None:
        return None
    depth, kept = 1, list[str]()
    for char in text[start.end() :]:
        depth += {"{": 1, "}": -1}.get(char, 0)
        if depth == 0:
            break
        # Nested types have their own numbers; a oneof's fields belong to the message.
        kept.append(char)
    return _without_nested("".join(kept))


def _without_nested(body: str) -> str:
    return re.sub(r"\b(?:message|enum)\s+\w+\s*\{[^{}]*\}", " ", body)


def _type(field: FieldDescriptor) -> str:
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        key, value = (entry.fields_by_name[name] for name in ("key", "value"))
        return f"map<{_type(key)},{_type(value)}>"
    named = entry or field.enum_type
    label = "repeated " if field.is_repeated else ""
    return label + (named.full_name if named else _SCALARS[field.type])


def _simple(type_name: str) -> str:
    """Return the type without its package, which a contract may omit."""
    return re.sub(r"[\w.]*\.(\w+)", r"\1", type_name)
