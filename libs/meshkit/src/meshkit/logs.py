"""Structured logs: one JSON object a line on standard error, by the standard library's logging.

Fields: `ts` (RFC 3339, UTC, µs), `level`, `service`, `logger`, `message`, `trace_id`
and `span_id` when a span is active, `exception` with the traceback, and whatever a call gives
in `extra`. Values under names that look like secrets, and passwords inside URLs, are replaced.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import TextIO

from opentelemetry import trace

REDACTED = "[redacted]"
_SECRET_NAME = re.compile(r"(?i)secret|passw|token|credential|authorization|api[_-]?key|private")
_URL_PASSWORD = re.compile(r"(?P<head>[a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s@/]+(?=@)")
_ASSIGNED_SECRET = re.compile(
    r"(?i)(?P<head>\b[\w-]*(?:secret|password|passwd|token|api[_-]?key)[\w-]*[\"']?\s*[=:]\s*[\"']?)"
    r"(?P<value>[^\s\"',;}&]+)"
)
_BEARER = re.compile(r"(?i)(?P<head>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}")
# What a LogRecord has by itself; everything else on it came from `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_RESERVED = frozenset({"ts", "level", "service", "logger", "trace_id", "span_id", "exception"})


def redact(text: str) -> str:
    """`text` with passwords in URLs, bearer tokens and `secret=…` values replaced."""
    text = _URL_PASSWORD.sub(rf"\g<head>{REDACTED}", text)
    text = _BEARER.sub(rf"\g<head>{REDACTED}", text)
    return _ASSIGNED_SECRET.sub(rf"\g<head>{REDACTED}", text)


def _redact_value(name: str, value: object) -> object:
    if _SECRET_NAME.search(name):
        return REDACTED
    if isinstance(value, bool | int | float) or value is None:
        return value
    return redact(value if isinstance(value, str) else str(value))


class JsonFormatter(logging.Formatter):
    """Turns a record into one line of JSON."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, object] = {
            "ts": moment.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            line["trace_id"] = trace.format_trace_id(span.trace_id)
            line["span_id"] = trace.format_span_id(span.span_id)
        for name, value in vars(record).items():
            if name not in _STANDARD:
                line[f"extra_{name}" if name in _RESERVED else name] = _redact_value(name, value)
        if record.exc_info:
            line["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


def configure(service: str, level: str = "INFO", stream: TextIO | None = None) -> None:
    """Send every logger of this process to `stream` (standard error) as JSON lines."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # These tell of each request or wake-up; their warnings are still wanted.
    for chatty in ("httpx", "httpcore", "asyncio", "cassandra"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
