"""Validate request fields: sizes, times and instruments, with clear errors."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Final

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from meshkit.errors import InvalidArgument, NotFound

MAX_MS: Final = 221_845_392_000_000
"""Year 9000: later times are replaced by it, so that calendar sums stay within datetime."""
_NS_PER_MS: Final = 1_000_000
_MAX_SECONDS: Final = 253_402_300_800


def size(field: str, value: int, default: int, most: int) -> int:
    """Return a page's or list's size: 0 means `default`, a larger value than `most` becomes `most`.

    Raises:
        InvalidArgument: NEGATIVE_SIZE.
    """
    if value < 0:
        raise InvalidArgument(
            "NEGATIVE_SIZE",
            f"{field} is {value}; ask for 1 to {most}, or leave it out for {default}",
            field=field,
        )
    return min(value or default, most)


def strict_size(field: str, value: int, default: int, most: int) -> int:
    """Return a size as `size`, but reject more than `most`.

    Raises:
        InvalidArgument: NEGATIVE_SIZE, TOO_LARGE.
    """
    if value > most:
        raise InvalidArgument(
            "TOO_LARGE", f"{field} is {value}; at most {most} can be asked for", field=field
        )
    return size(field, value, default, most)


def time_range(request: Message) -> tuple[int | None, int | None]:
    """Return a request's start_time and end_time in nanoseconds, None if absent.

    Raises:
        InvalidArgument: BAD_TIME, INVERTED_RANGE.
    """
    start, end = _nanoseconds(request, "start_time"), _nanoseconds(request, "end_time")
    if start is not None and end is not None and start > end:
        raise InvalidArgument(
            "INVERTED_RANGE",
            "start_time is after end_time; exchange them",
            field="start_time",
        )
    return start, end


def floor_ms(nanoseconds: int | None) -> int:
    """Return the millisecond that contains a time; 0 for None."""
    return 0 if nanoseconds is None else max(0, min(nanoseconds // _NS_PER_MS, MAX_MS))


def ceil_ms(nanoseconds: int | None, absent: int) -> int:
    """Return the first whole millisecond at or after a time, within [1970, year 9000]."""
    if nanoseconds is None:
        return absent
    return min(max(-(-nanoseconds // _NS_PER_MS), 0), MAX_MS)


def instrument(name: str, known: Collection[str]) -> str:
    """Return the name of a known instrument.

    Raises:
        InvalidArgument: MISSING_INSTRUMENT.
        NotFound: UNKNOWN_INSTRUMENT; the message lists near matches.
    """
    if name in known:
        return name
    if not name:
        raise InvalidArgument(
            "MISSING_INSTRUMENT",
            'instrument is empty; name one, for example "binance.BTC-USDT"',
            field="instrument",
        )
    shown = name[:80]
    near = near_matches(shown, known)
    hint = f"did you mean {' or '.join(near)}?" if near else "see /v1/instruments"
    raise NotFound(
        "UNKNOWN_INSTRUMENT", f"there is no instrument {shown!r}; {hint}", instrument=shown
    )


def near_matches(name: str, known: Collection[str]) -> list[str]:
    """Return up to three known names similar to a wrong one, ignoring case and separators."""
    folded = {_fold(candidate): candidate for candidate in sorted(known)}
    found = difflib.get_close_matches(_fold(name), folded, 3, 0.6)
    return [folded[candidate] for candidate in found]


def one_of(field: str, reason: str, value: str, valid: Collection[str]) -> str:
    """Return a value that is one of a few valid ones.

    Raises:
        InvalidArgument: With `reason`; the message lists the valid ones.
    """
    if value not in valid:
        raise InvalidArgument(
            reason, f"{field} {value[:40]!r} is not one of {', '.join(valid)}", field=field
        )
    return value


def _fold(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace("/", "")


def _nanoseconds(request: Message, field: str) -> int | None:
    if not request.HasField(field):
        return None
    time: Timestamp = getattr(request, field)
    if not (-62_135_596_800 <= time.seconds < _MAX_SECONDS and 0 <= time.nanos < 1_000_000_000):
        raise InvalidArgument("BAD_TIME", f"{field} is not a time from year 1 to 9999", field=field)
    return time.seconds * 1_000_000_000 + time.nanos
