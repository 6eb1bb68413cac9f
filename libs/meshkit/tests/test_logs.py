"""Log lines: one JSON object each, complete and without secrets."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider

from meshkit import logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    output = io.StringIO()
    logs.configure("gateway", "INFO", output)
    yield output
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_the_schema(stream: io.StringIO):
    logging.getLogger("mesh.part").info("took %d ms", 5, extra={"instrument": "binance.BTC-USDT"})
    (line,) = lines(stream)
    assert datetime.fromisoformat(line.pop("ts")).utcoffset().total_seconds() == 0
    assert line == {
        "level": "INFO",
        "service": "gateway",
        "logger": "mesh.part",
        "message": "took 5 ms",
        "instrument": "binance.BTC-USDT",
    }


def test_a_line_stays_one_line_whatever_it_says(stream: io.StringIO):
    logging.getLogger().warning("a\nb\r\u2028c", extra={"object": object()})
    (line,) = [json.loads(text) for text in stream.getvalue().split("\n") if text]
    assert line["message"] == "a\nb\r\u2028c"


def test_an_exception_brings_its_traceback(stream: io.StringIO):
    try:
        raise KeyError("missing")
    except KeyError:
        logging.getLogger().exception("failed")
    (line,) = lines(stream)
    assert "KeyError: 'missing'" in line["exception"]
    assert "Traceback" in line["exception"]


def test_extra_can_not_overwrite_the_schema(stream: io.StringIO):
    logging.getLogger().info("x", extra={"service": "other", "ts": 1})
    (line,) = lines(stream)
    assert line["service"] == "gateway"
    assert line["extra_service"] == "other"


def test_the_active_span_is_named(stream: io.StringIO):
    with TracerProvider().get_tracer("t").start_as_current_span("s") as span:
        logging.getLogger().info("inside")
    (line,) = lines(stream)
    assert line["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert line["span_id"] == f"{span.get_span_context().span_id:016x}"


@pytest.mark.parametrize(
    "text",
    [
        "redis://:hush1234@127.0.0.1:6379/0",
        "postgres://mesh:hush1234@db/x",  # pragma: allowlist secret
        "Authorization: Bearer hush1234",
        "password=hush1234",
        '{"secretKey": "hush1234"}',  # pragma: allowlist secret
        "COINMESH_S3_SECRET=hush1234 next",
        "api_key: hush1234",
        "X-Vault-Token: hush1234",
    ],
)
def test_secrets_in_messages_are_redacted(stream: io.StringIO, text: str):
    logging.getLogger().info("connecting %s", text)
    assert "hush1234" not in stream.getvalue()
    assert logs.REDACTED in stream.getvalue()


def test_secrets_in_extra_and_exceptions_are_redacted(stream: io.StringIO):
    try:
        raise ValueError("bad url redis://:hush1234@host")
    except ValueError:
        # pragma: allowlist nextline secret
        logging.getLogger().exception("failed", extra={"client_secret": "hush1234", "n": 1})
    assert "hush1234" not in stream.getvalue()
    assert lines(stream)[0]["n"] == 1


@given(st.text())
def test_any_text_makes_one_json_line(text: str):
    record = logging.makeLogRecord({"msg": text, "levelno": 20, "name": "n"})
    line = logs.JsonFormatter("s").format(record)
    assert "\n" not in line
    assert json.loads(line)["service"] == "s"


def test_a_command_tells_people_text_and_components_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.delenv(logs.SERVICE_VARIABLE, raising=False)
    logs.tell("access", "done")
    logs.tell("access", "it failed", logging.ERROR)
    assert capsys.readouterr() == ("done\n", "it failed\n")

    monkeypatch.setenv(logs.SERVICE_VARIABLE, "vault-setup")
    logs.tell("access", "done")
    logs.tell("access", "two\nlines, token=hush1234", logging.ERROR)
    output, errors = capsys.readouterr()
    assert output == ""
    done, failed = [json.loads(text) for text in errors.splitlines()]
    assert (done["service"], done["level"], done["message"]) == ("vault-setup", "INFO", "done")
    assert failed["level"] == "ERROR"
    assert failed["message"] == f"two\nlines, token={logs.REDACTED}"


def test_what_a_command_does_not_catch_is_a_line_in_a_components_log():
    program = (
        "import logging; from meshkit import logs; logs.configure_command();"
        "logging.getLogger('driver').warning('odd'); raise KeyError('missing')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={logs.SERVICE_VARIABLE: "redis"},
        capture_output=True,
        text=True,
        check=False,
    )
    odd, uncaught = [json.loads(text) for text in done.stderr.splitlines()]
    assert (odd["service"], odd["level"]) == ("redis", "WARNING")
    assert (uncaught["service"], uncaught["level"]) == ("redis", "CRITICAL")
    assert "KeyError" in uncaught["exception"]


def test_chatty_loggers_are_quiet(stream: io.StringIO):
    logging.getLogger("httpx").info("HTTP Request")
    assert lines(stream) == []
