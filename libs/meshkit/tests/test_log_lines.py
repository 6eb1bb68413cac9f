"""Foreign log lines: brought into the schema, without their secrets."""

import io
import json
import logging
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from meshkit import log_lines, logs

SCHEMA = Draft202012Validator(log_lines.schema())
NOW = datetime(2026, 11, 22, 21, 30, 1, 5, UTC)
ZAP = {"level": "warn", "ts": "2026-11-22T21:02:43.123456789Z", "msg": "slow", "caller": "x.go:7"}
BAO = {"@level": "error", "@message": "sealed", "@timestamp": "2026-11-22T21:02:43Z"}
OWN = {
    "ts": "2026-11-22T21:02:43.000001Z",
    "level": "INFO",
    "service": "spark-stream",
    "logger": "coinmesh_spark.stream",
    "message": "hello",
    "trace_id": "0af7651916cd43dd8448eb211c80319c",
    "span_id": "b7ad6b7169203331",
    "batch": 7,
}


def normalized(text: str, instance: str = "kafka-2") -> dict[str, Any]:
    line = log_lines.normalize(text, instance, NOW)
    SCHEMA.validate(line)
    return line


def test_a_line_of_the_schema_passes_as_it_is():
    assert normalized(json.dumps(OWN), "spark-stream") == OWN | {"instance": "spark-stream"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "24774:M 22 Nov 2026 21:01:53.518 # WARNING Memory overcommit must be enabled!",
            ("2026-11-22T21:01:53.518000Z", "WARNING", "output", "WARNING Memory overcommit must"),
        ),
        (
            "I1122 21:01:54.210374 master.go:400 current: 127.0.0.1:23952 peers:",
            ("2026-11-22T21:01:54.210374Z", "INFO", "master.go:400", "current: 127.0.0.1:23952"),
        ),
        (
            "WARNING: Using incubator modules: jdk.incubator.vector",
            ("2026-11-22T21:30:01.000005Z", "WARNING", "output", "WARNING: Using incubator"),
        ),
        (json.dumps(ZAP), ("2026-11-22T21:02:43.123456Z", "WARNING", "x.go:7", "slow")),
        (json.dumps(BAO), ("2026-11-22T21:02:43.000000Z", "ERROR", "output", "sealed")),
        (
            json.dumps({"ts": 1795381363.5, "level": "off", "msg": "x"}),
            ("2026-11-22T21:02:43.500000Z", "INFO", "output", "x"),
        ),
        (
            json.dumps({"method": "GET", "path": "/v1/tickers", "status": 200}),
            ("2026-11-22T21:30:01.000005Z", "INFO", "access", "GET /v1/tickers 200"),
        ),
    ],
)
def test_other_forms_are_wrapped(text: str, expected: tuple[str, str, str, str]):
    line = normalized(text)
    assert (line["ts"], line["level"], line["logger"]) == expected[:3]
    assert line["message"].startswith(expected[3])
    assert (line["service"], line["instance"]) == ("kafka", "kafka-2")


@pytest.mark.parametrize(
    "text",
    [
        "requirepass is set, password=hush1234",
        "GET /v1/x HTTP/1.1 Authorization: Bearer hush1234hush",
        '{"msg": "login", "client_token": "hush1234"}',
        '{"msg": "login", "request": {"headers": {"authorization": "hush1234"}}}',
        # pragma: allowlist nextline secret
        '{"msg": "redis://worker:hush1234@127.0.0.1/0"}',
        "s3://hush1234:x@store/bucket",
        "token eyJhbGciOiJIUzI1NiJ9.hush1234.hush1234",
        # pragma: allowlist nextline secret
        "-----BEGIN PRIVATE KEY-----\\nhush1234\\n-----END PRIVATE KEY-----",
        "hvs.CAESIhush1234hush1234hush1234",
    ],
)
def test_secrets_are_taken_out(text: str):
    line = normalized(text)
    assert "hush1234" not in json.dumps(line)
    assert logs.REDACTED in json.dumps(line)


@pytest.mark.parametrize("unit", ["x", "a-", "a.", "token", "://", "eyJ", "password ", "x=y ", '"'])
def test_long_lines_take_no_longer_than_their_length(unit: str):
    """A pattern that looks back over what it has read would need hours for these."""
    text = unit * (100_000 // len(unit))
    assert len(logs.redact(text)) <= len(text)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["ts", "level", "message", "service", "trace_id", "span_id", "logger"])


@given(st.dictionaries(NAMES | st.text(), JSON_VALUES))
@example({"service": 0})
@example({"trace_id": 10**31})
def test_any_json_object_comes_into_the_schema(found: dict[str, Any]):
    normalized(json.dumps(found))


@given(st.text())
def test_any_text_comes_into_the_schema(text: str):
    normalized(text)


def test_what_services_log_is_of_the_schema():
    output = io.StringIO()
    handler = logging.StreamHandler(output)
    handler.setFormatter(logs.JsonFormatter("query-gateway"))
    log = logging.Logger("mesh.part", logging.DEBUG)
    log.addHandler(handler)
    log.log(25, "between the levels", extra={"ratio": 0.5, "where": ["a", {"b": 1}], "none": None})
    try:
        raise ValueError("x")
    except ValueError:
        log.exception("failed", extra={"trace_id": "mine"})
    for text in output.getvalue().splitlines():
        SCHEMA.validate(json.loads(text))


def test_the_schema_refuses_what_it_should():
    for change in (
        {"ts": "2026-11-22 21:02:43"},
        {"level": "WARN"},
        {"trace_id": "0" * 32},
        {"trace_id": None},
        {"extra": {"nested": 1}},
    ):
        assert not SCHEMA.is_valid(OWN | change), change
    for name in ("ts", "level", "service", "logger", "message", "trace_id"):
        assert not SCHEMA.is_valid({key: value for key, value in OWN.items() if key != name}), name


def test_the_filter_answers_rsyslog_line_by_line():
    messages = [
        {"msg": "password=hush1234", "$!": {"metadata": {"filename": "/x/logs/kafka-1.log"}}},
        {"msg": json.dumps(OWN), "$!": {"metadata": {"filename": "spark-stream.log"}}},
    ]
    text = "not json\n" + "".join(json.dumps(message) + "\n" for message in messages)
    answers = subprocess.run(
        [sys.executable, "-m", "meshkit.log_lines"],
        input=text,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert answers[0] == "{}"
    first, second = (json.loads(answer)["$!"]["line"] for answer in answers[1:])
    assert (first["instance"], first["message"]) == ("kafka-1", "password=[redacted]")
    assert second == OWN | {"instance": "spark-stream"}
