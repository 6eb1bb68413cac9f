"""The minimal JSON form of any event.

`{"timestamp", "source", "type", "symbol", "price", "size", "metadata"}`: `timestamp` is the event's
time in seconds with its exact fraction, or null; `price` and `size` are JSON numbers with the
event's own digits, or null if an event has none. A trade provides its price and size, a bar its
close and volume, a quote the middle of bid and ask, a reference price its price. All other fields
of the event are in `metadata`, also exact: decimals as strings, counts as numbers.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from coinmesh_contracts.decimals import to_string
from coinmesh_contracts.events.v1 import event_type_pb2

_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
# The leading fields of every event; instrument and event_id go to the metadata, the others don't.
_LEADING = frozenset({"event_time", "source", "type", "symbol", "metadata"})
_TRADE_NUMBERS = {"price_units", "price_exponent", "size_units", "size_exponent"}
_SCALED = {"tick_size": "price_exponent", "lot_size": "size_exponent"}
# Chains write their binary values in hexadecimal; other bytes are mostly text.
_HEX_MESSAGES = frozenset({"TokenTransfer", "BlockHeader"})

Numbers = tuple[str | None, str | None]


def render(event: Message) -> str:
    """Return the event as one line of JSON, without a line end."""
    fields = cast(Any, event)
    time = to_string(fields.event_time, -6) if fields.HasField("event_time") else None
    pick = _NUMBERS.get(event.DESCRIPTOR.name)
    price, size = pick(fields) if pick else (None, None)
    symbol = fields.symbol or fields.instrument or None
    event_type = _enum_value(event_type_pb2.EventType.DESCRIPTOR, fields.type)
    told = _LEADING | (_TRADE_NUMBERS if event.DESCRIPTOR.name == "Trade" else set())
    # 0: the writer needs no lease.
    told |= set() if fields.epoch else {"epoch"}
    metadata = {**fields.metadata, **_facts(event, skip=told)}
    return (
        f'{{"timestamp":{time or "null"},"source":{_json(fields.source)},'
        f'"type":{_json(event_type)},"symbol":{_json(symbol)},'
        f'"price":{_number(price)},"size":{_number(size)},"metadata":{_json(metadata)}}}'
    )


def _trade(event: Any) -> Numbers:
    return (
        to_string(event.price_units, event.price_exponent),
        to_string(event.size_units, event.size_exponent),
    )


def _quote(event: Any) -> Numbers:
    if not (event.bid_size_units and event.ask_size_units):
        return None, None
    # Half of the sum, exactly: times five, one decimal more.
    middle = (event.bid_price_units + event.ask_price_units) * 5
    return to_string(middle, event.price_exponent - 1), None


def _bar(event: Any) -> Numbers:
    return to_string(event.close_units, event.price_exponent), event.volume


def _reference(event: Any) -> Numbers:
    return to_string(event.price_units, event.price_exponent), None


_NUMBERS: Mapping[str, Callable[[Any], Numbers]] = {
    "Trade": _trade,
    "Quote": _quote,
    "Bar": _bar,
    "ReferencePrice": _reference,
}


def _number(text: str | None) -> str:
    return text if text is not None and _JSON_NUMBER.fullmatch(text) else "null"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _facts(message: Message, skip: Iterable[str] = ()) -> dict[str, object]:
    """Return every field of `message` except the skipped and absent ones."""
    facts: dict[str, object] = {}
    hexadecimal = message.DESCRIPTOR.name in _HEX_MESSAGES
    for field in cast(Iterable[FieldDescriptor], message.DESCRIPTOR.fields):
        if field.name in skip or (field.has_presence and not message.HasField(field.name)):
            continue
        exponent = _exponent(message, field.name)

        def one(value: Any, field: FieldDescriptor = field, exponent: int | None = exponent) -> Any:
            if exponent is not None:
                return to_string(value, exponent)
            return _value(field, value, hexadecimal)

        value = getattr(message, field.name)
        name = field.name.removesuffix("_units")
        facts[name] = [one(item) for item in value] if _is_repeated(field) else one(value)
    return facts


def _is_repeated(field: FieldDescriptor) -> bool:
    return bool(field.is_repeated)


def _exponent(message: Message, name: str) -> int | None:
    """Return the exponent of a field of units; None for other fields."""
    source = _SCALED.get(name)
    if source is None and name.endswith("_units"):
        own = name.removesuffix("_units").removesuffix("_sum") + "_exponent"
        shared = "size_exponent" if "size" in name else "price_exponent"
        source = own if own in message.DESCRIPTOR.fields_by_name else shared
    return getattr(message, source) if source else None


def _value(field: FieldDescriptor, value: Any, hexadecimal: bool) -> object:
    if field.enum_type is not None:
        return _enum_value(field.enum_type, value)
    if field.message_type is not None:
        return _facts(value)
    if isinstance(value, bytes):
        if hexadecimal:
            # A uint256 amount is a number; addresses and hashes are written in hexadecimal.
            return (
                str(int.from_bytes(value, "big")) if field.name == "value" else f"0x{value.hex()}"
            )
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"base64": base64.b64encode(value).decode()}
    return value


def _enum_value(enum: EnumDescriptor, number: int) -> str:
    """Return the value's name in lower case without its type's prefix; the number if unknown."""
    known = enum.values_by_number.get(number)
    if known is None:
        return str(number)
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper() + "_"
    return known.name.removeprefix(prefix).lower()
