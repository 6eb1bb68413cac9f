"""Inputs from outside: garbage, JSON of any shape, and good messages with some bytes changed."""

import json
import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

#: `make test` looks briefly, `make fuzz` sets more examples a test.
FUZZ = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "60")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

#: Any JSON value, with the numbers, depths and texts that break parsers.
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["0", "-1", "1e400", "NaN", "١", "\x00", "9" * 400]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=10,
)
DEEP = st.sampled_from([2_000, 200_000]).map(lambda depth: b"[" * depth)


def json_like(good: Any) -> st.SearchStrategy[Any]:
    """`good` with some of its parts replaced by anything."""
    if isinstance(good, dict):
        fields = {key: json_like(value) for key, value in good.items()}
        return st.fixed_dictionaries({}, optional=fields) | VALUES
    if isinstance(good, list):
        return st.lists(json_like(good[0]), max_size=4) | VALUES if good else VALUES
    return st.just(good) | VALUES


def bodies(*good: Any) -> st.SearchStrategy[bytes]:
    """Request and response bodies: like the good ones, damaged ones, garbage, and deep nesting."""
    shaped = st.one_of([json_like(each) for each in good]).map(lambda v: json.dumps(v).encode())
    return shaped | shaped.flatmap(damaged) | st.binary(max_size=80) | DEEP


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """`good` with some spans replaced."""
    data = bytearray(good)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 6))] = draw(st.binary(max_size=5))
    return bytes(data)
