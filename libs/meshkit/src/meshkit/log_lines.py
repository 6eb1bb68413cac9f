"""Converts a line of any component's log to the mesh's schema (`log_schema.json`).

Coinmesh programs and the JVM components write the schema themselves; their lines pass unchanged.
Others write JSON with different names or levels (OpenBao, Jaeger, Prometheus, Envoy) or text
(Redis, SeaweedFS, a runtime before its logging starts): those lines are wrapped and redacted here.

`python -m meshkit.log_lines` provides the same as a filter for rsyslog's mmexternal: a message with
its file's name in, `{"$!": {"line": …}}` out.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from meshkit.logs import REDACTED, is_secret_name, redact, timestamp

Line = dict[str, Any]

# Field names of other programs' JSON, and the schema's names for them.
_SYNONYMS: dict[str, str] = {
    "@timestamp": "ts",
    "time": "ts",
    "timestamp": "ts",
    "@level": "level",
    "severity": "level",
    "@message": "message",
    "msg": "message",
    "@module": "logger",
    "caller": "logger",
    "component": "logger",
    "loggerName": "logger",
    "traceId": "trace_id",
    "spanId": "span_id",
    "stackTrace": "exception",
    "err": "error",
}
_LEVELS: dict[str, str] = {
    "TRACE": "TRACE",
    "DEBUG": "DEBUG",
    "INFO": "INFO",
    "WARN": "WARNING",
    "WARNING": "WARNING",
    "ERROR": "ERROR",
    "SEVERE": "ERROR",
    "CRITICAL": "CRITICAL",
    "FATAL": "CRITICAL",
    "PANIC": "CRITICAL",
    "DPANIC": "CRITICAL",
    "OFF": "INFO",
}
# Redis, "24774:M 22 Nov 2026 21:01:53.517 # text" (serverLogRaw)
_REDIS = re.compile(r"\d+:[XCSM] (\d\d \w{3} \d{4} [\d:]{8}\.\d{3}) ([.\-*#]) (.*)", re.DOTALL)
_REDIS_LEVELS = {".": "DEBUG", "-": "INFO", "*": "INFO", "#": "WARNING"}
# glog (SeaweedFS), "I1122 21:01:54.210374 master.go:400 text"; the year is not written.
_GLOG = re.compile(r"([IWEF])(\d{4} [\d:]{8}\.\d{6}) +(?:\d+ )?(\S+:\d+)\]? (.*)", re.DOTALL)
_GLOG_LEVELS = {"I": "INFO", "W": "WARNING", "E": "ERROR", "F": "CRITICAL"}
_LEADING_LEVEL = re.compile(r"(?:\[)?(TRACE|DEBUG|INFO|WARN|WARNING|ERROR|SEVERE|FATAL)\b[\]:]? *")
_TRACE_ID = re.compile(r"[0-9a-f]{32}")
_SPAN_ID = re.compile(r"[0-9a-f]{16}")
_SERVICE = re.compile(r"[a-z0-9][a-z0-9-]*")
_SERVICE_OF_REPLICA = re.compile(r"(.+?)-\d+")


def schema() -> dict[str, Any]:
    """Return the JSON schema of a line."""
    return json.loads(files("meshkit").joinpath("log_schema.json").read_text())


def service_of(instance: str) -> str:
    """Return `kafka` for the replica `kafka-2`."""
    found = _SERVICE_OF_REPLICA.fullmatch(instance)
    return found[1] if found else instance


def normalize(text: str, instance: str, otherwise: datetime) -> Line:
    """Return `text` as an object of the schema; `otherwise` is the time of a line without one."""
    text = text.rstrip("\r\n")
    own: Line = {
        "ts": timestamp(otherwise),
        "level": "INFO",
        "service": service_of(instance),
        "logger": "output",
        "message": "",
    }
    line = _from_json(text, otherwise) if text.startswith("{") else None
    if line is None:
        line = _from_text(text, otherwise)
    return own | line | {"instance": instance}


def _from_json(text: str, otherwise: datetime) -> Line | None:
    try:
        found: Any = json.loads(text)
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    given = cast(dict[str, Any], found)
    line: Line = {}
    for name, value in given.items():
        target = _SYNONYMS.get(name, name)
        if target in line:
            target = name
        line[target] = _plain(name, value)
    line["ts"] = _instant(line.get("ts"), otherwise)
    line["level"] = _LEVELS.get(str(line.get("level", "INFO")).upper(), "INFO")
    service = line.get("service")
    if not isinstance(service, str) or not _SERVICE.fullmatch(service):
        line.pop("service", None)
    if not isinstance(line.get("logger"), str) or not line["logger"]:
        line["logger"] = "access" if "status" in line and "path" in line else "output"
    if not isinstance(line.get("message"), str):
        line["message"] = _summary(line, text)
    for name, pattern in (("trace_id", _TRACE_ID), ("span_id", _SPAN_ID)):
        value = line.get(name)
        if not isinstance(value, str) or not pattern.fullmatch(value) or not value.strip("0"):
            line.pop(name, None)
    if not line.get("exception"):
        line.pop("exception", None)
    elif not isinstance(line["exception"], str):
        line["exception"] = str(line["exception"])
    if "trace_id" not in line:
        line.pop("span_id", None)
    return line


def _summary(line: Line, text: str) -> str:
    """Return a message for an object without one: an access log's request, else its text."""
    if "path" in line and "method" in line:
        return f"{line['method']} {line['path']} {line.get('status', '')}".rstrip()
    return redact(text)


def _plain(name: str, value: object) -> object:
    """Return a scalar; nested values become text, and likely secrets are redacted."""
    if is_secret_name(name):
        return REDACTED
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, bool | int | float) or value is None:
        return value
    return redact(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _from_text(text: str, otherwise: datetime) -> Line:
    if found := _REDIS.fullmatch(text):
        moment = _parsed(found[1], "%d %b %Y %H:%M:%S.%f", otherwise)
        return {"ts": moment, "level": _REDIS_LEVELS[found[2]], "message": redact(found[3])}
    if found := _GLOG.fullmatch(text):
        moment = _parsed(f"{otherwise.year}{found[2]}", "%Y%m%d %H:%M:%S.%f", otherwise)
        line: Line = {"ts": moment, "level": _GLOG_LEVELS[found[1]], "logger": found[3]}
        return line | {"message": redact(found[4])}
    line = {"message": redact(text)}
    if found := _LEADING_LEVEL.match(text):
        line["level"] = _LEVELS[found[1]]
    return line


def _parsed(text: str, form: str, otherwise: datetime) -> str:
    try:
        return timestamp(datetime.strptime(text, form).replace(tzinfo=UTC))
    except ValueError:
        return timestamp(otherwise)


def _instant(value: object, otherwise: datetime) -> str:
    """Return a time written by another program: RFC 3339, or seconds since 1970."""
    try:
        if isinstance(value, str):
            # Go writes nanoseconds, which datetime rejects.
            moment = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", value))
            return timestamp(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
        if isinstance(value, int | float):
            return timestamp(datetime.fromtimestamp(value, UTC))
    except (ValueError, OverflowError, OSError):
        pass
    return timestamp(otherwise)


def instance_of(path: str) -> str:
    """Return the instance that writes the log `path` (`kafka-2.log`, also rotated `.log.1`)."""
    return Path(path).name.partition(".log")[0]


def answer(message: str, now: Callable[[], datetime]) -> str:
    """Return mmexternal's answer to a message in its JSON form: the line next to the message."""
    given: Mapping[str, Any] = json.loads(message)
    metadata = cast(Mapping[str, str], given.get("$!", {}).get("metadata", {}))
    instance = instance_of(metadata.get("filename", "unknown.log"))
    line = normalize(str(given.get("msg", "")), instance, now())
    return json.dumps({"$!": {"line": line}}, ensure_ascii=True)


def main() -> None:
    """Answer each line of standard input until it ends."""
    for message in sys.stdin:
        try:
            reply = answer(message, lambda: datetime.now(UTC))
        except (ValueError, TypeError, AttributeError):
            reply = "{}"  # rsyslog then ships nothing for a message that it could not describe
        sys.stdout.write(reply + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
