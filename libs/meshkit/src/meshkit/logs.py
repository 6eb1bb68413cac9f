"""Structured logs: one JSON object per line on standard error, with the standard library's logging.

Fields (`log_schema.json` is the machine-readable form): `ts` (RFC 3339, UTC, µs), `level`,
`service`, `logger`, `message`, `trace_id` and `span_id` if a span is active, `exception` with the
traceback, and the fields of a call's `extra`. Values under secret-like names, passwords and user
names inside URLs, tokens and private keys are replaced. Warnings and uncaught exceptions are
logged, too.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
from datetime import UTC, datetime
from types import TracebackType
from typing import TextIO

from opentelemetry import trace

# Names the component to whose log a process writes; unset for commands run by people.
SERVICE_VARIABLE = "COINMESH_SERVICE_NAME"
REDACTED = "[redacted]"
_SECRET_NAME = re.compile(
    r"(?i)secret|passw|token|credential|authorization|cookie|api[_-]?key|private"
)
# Repetitions that would be costly on long text are bounded: a line may be megabytes.
_URL_PASSWORD = re.compile(r"(?i)(?P<head>\b[a-z][a-z0-9+.-]{0,30}://)[^\s/?#@]+(?=@)")
_ASSIGNED_SECRET = re.compile(
    r"(?i)(?P<head>(?<![\w-])[\w-]*?(?:secret|password|passwd|token|credentials?|authorization|cookie"
    r"|api[_-]?key)[\w-]{0,60}\\?[\"']?\s*[=:]\s*\\?[\"']?)(?P<value>[^\s\"',;}&\\]+)"
)
_BEARER = re.compile(r"(?i)(?P<head>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}")
# Secrets in any position: JSON web tokens, Vault's tokens, PEM private keys.
_BARE = re.compile(
    r"\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*|\b(?:hvs|hvb|s|b)\.[A-Za-z0-9_-]{20,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----(?:.*?-----END [A-Z ]*PRIVATE KEY-----|.*)",
    re.DOTALL,
)
# Attributes that every LogRecord has; all others come from `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_RESERVED = frozenset({"ts", "level", "service", "logger", "trace_id", "span_id", "exception"})


def timestamp(moment: datetime) -> str:
    """Return `moment` in the format of log lines: RFC 3339, UTC, microseconds."""
    text = moment.astimezone(UTC).isoformat(timespec="microseconds")
    return text.replace("+00:00", "Z")


def is_secret_name(name: str) -> bool:
    """Return whether values under this name are never written."""
    return _SECRET_NAME.search(name) is not None


def redact(text: str) -> str:
    """Return `text` with credentials in URLs, tokens, private keys and `secret=…` replaced."""
    text = _BARE.sub(REDACTED, text)
    text = _URL_PASSWORD.sub(rf"\g<head>{REDACTED}", text)
    text = _BEARER.sub(rf"\g<head>{REDACTED}", text)
    return _ASSIGNED_SECRET.sub(rf"\g<head>{REDACTED}", text)


def _redact_value(name: str, value: object) -> object:
    if is_secret_name(name):
        return REDACTED
    if isinstance(value, bool | int | float) or value is None:
        return value
    return redact(value if isinstance(value, str) else str(value))


def level_name(number: int) -> str:
    """Return the schema's level; a library's custom level counts as the next lower one."""
    for floor, name in ((50, "CRITICAL"), (40, "ERROR"), (30, "WARNING"), (20, "INFO")):
        if number >= floor:
            return name
    return "DEBUG"


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        line: dict[str, object] = {
            "ts": timestamp(datetime.fromtimestamp(record.created, UTC)),
            "level": level_name(record.levelno),
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


def line(service: str, logger: str, message: str, level: int = logging.INFO) -> bytes:
    """Return a line for a log that this process doesn't write with `logging`."""
    record = logging.LogRecord(logger, level, "", 0, message, None, None)
    return f"{JsonFormatter(service).format(record)}\n".encode()


def tell(logger: str, text: str, level: int = logging.INFO) -> None:
    """Report the progress or failure of a command that components and people run.

    In a component's log it is a line of the schema. People get only the text, on standard output,
    or on standard error from warnings on (`level` of the module `logging`).
    """
    if service := os.environ.get(SERVICE_VARIABLE):
        sys.stderr.write(line(service, logger, text, level).decode())
    else:
        print(text, file=sys.stderr if level >= logging.WARNING else sys.stdout, flush=True)


def configure_command() -> None:
    """Configure logging for a command that components and people run; unchanged for people."""
    if service := os.environ.get(SERVICE_VARIABLE):
        configure(service)


def configure(service: str, level: str = "INFO", stream: TextIO | None = None) -> None:
    """Send every logger of this process to `stream` (standard error) as JSON lines."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # These log each request or wake-up; their warnings are kept.
    for chatty in ("httpx", "httpcore", "asyncio", "cassandra"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda given: _log_uncaught(
        given.exc_type, given.exc_value or given.exc_type(), given.exc_traceback
    )


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        logging.getLogger("uncaught").critical("%s", error, exc_info=(kind, error, trace))
