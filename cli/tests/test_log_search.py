"""Searching log files: by trace, service, time and text, across rotated files and foreign forms."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coinmesh_cli import log_search
from coinmesh_cli.log_search import Line, SearchError, Wanted, from_files, search
from coinmesh_cli.main import app
from coinmesh_local.mesh import Mesh
from coinmesh_local.paths import Home
from meshkit.logs import REDACTED

# pragma: allowlist nextline secret
TRACE = "0af7651916cd43dd8448eb211c80319c"


def line(second: int, service: str, message: str, **more: object) -> str:
    moment = datetime(2026, 11, 22, 21, 0, second, tzinfo=UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    known = {"ts": moment, "level": "INFO", "service": service, "logger": "l", "message": message}
    return json.dumps(known | more) + "\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "query-gateway-2.log.1").write_text(line(1, "query-gateway", "old", trace_id=TRACE))
    (logs / "query-gateway-2.log").write_text(
        line(4, "query-gateway", "asked", trace_id=TRACE) + line(5, "query-gateway", "other")
    )
    (logs / "collector-binance.log").write_text(
        line(3, "collector-binance", "sent", trace_id=TRACE) + line(2, "collector-binance", "idle")
    )
    (logs / "redis.log").write_text(
        "1:M 22 Nov 2026 21:00:06.000 # Connection from x\n   password=hush1234 goes on\n"
    )
    for device in (1, 2):
        (logs / f"openbao-audit-{device}.log").write_text(line(7, "openbao-audit", "a request"))
    monkeypatch.setenv("COINMESH_HOME", str(tmp_path))
    return tmp_path


def messages(home: Path, wanted: Wanted) -> list[str]:
    return sorted(found["message"] for found in from_files(home / "logs", wanted))


def test_a_trace_is_found_across_services_and_rotations(home: Path):
    assert messages(home, Wanted(trace_id=TRACE)) == ["asked", "old", "sent"]


def test_a_service_is_all_its_replicas(home: Path):
    assert messages(home, Wanted(service="query-gateway")) == ["asked", "old", "other"]
    assert messages(home, Wanted(service="query-gateway-2")) == ["asked", "old", "other"]
    assert messages(home, Wanted(service="query-gateway-1")) == []


def test_the_second_audit_devices_copy_is_read_only_when_named(home: Path):
    assert messages(home, Wanted(service="openbao-audit")) == ["a request"]
    assert messages(home, Wanted(service="openbao-audit-2")) == ["a request"]


def test_since_and_grep(home: Path):
    wanted = Wanted.parse(None, None, "2026-11-22T21:00:04Z", "ask|Conn")
    assert messages(home, wanted) == ["Connection from x", "asked"]


def test_a_foreign_line_without_time_has_that_of_the_line_before_it(home: Path):
    first, second = from_files(home / "logs", Wanted(service="redis"))
    assert first["ts"] == second["ts"] == "2026-11-22T21:00:06.000000Z"
    assert second["message"] == f"   password={REDACTED} goes on"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("xyz", None, None, None), "32 lower-case hexadecimal"),
        ((None, None, "yesterday", None), "--since takes"),
        ((None, None, None, "("), "regular expression"),
    ],
)
def test_what_is_wrong_is_named(words: tuple[str | None, ...], told: str):
    with pytest.raises(SearchError, match=told):
        Wanted.parse(*words)


def test_the_command_prints_lines_by_time_and_says_where_from(home: Path):
    result = CliRunner().invoke(app, ["logs", "--trace", TRACE, "--json"])
    assert result.exit_code == 0
    found = [json.loads(text) for text in result.stdout.splitlines()]
    assert [one["message"] for one in found] == ["old", "sent", "asked"]
    assert "3 lines from the files" in result.stderr
    assert CliRunner().invoke(app, ["logs", "--trace", "f" * 32]).exit_code == 1


@pytest.mark.parametrize("behind", [5, 3, 1, 0], ids=["empty", "late", "almost there", "complete"])
def test_what_a_late_store_lacks_comes_from_the_files(
    home: Path, monkeypatch: pytest.MonkeyPatch, behind: int
):
    mesh, wanted = Mesh(Home(home)), Wanted(grep=re.compile("old|asked|other|x|goes on"))
    where, whole = search(mesh, wanted, 10)
    assert (where, len(whole)) == ("files", 5)
    stored = whole[: len(whole) - behind]
    # Redis's second line has no time: the shipper gives it that of its reading.
    shipped: list[Line] = [
        line | {"ts": "2026-11-22T21:00:09.000000Z"} if "goes on" in line["message"] else line
        for line in stored
    ]
    gone = {**whole[0], "ts": "2026-11-21T00:00:00.000000Z"}  # rotated away, the store still has it

    def from_store(mesh: Mesh, wanted: Wanted, limit: int) -> list[Line]:
        return [gone, *shipped][-limit:]

    monkeypatch.setattr(log_search, "from_store", from_store)
    where, found = search(mesh, wanted, 10)
    assert where == "store and files"
    assert [line["message"] for line in found] == ["old", *(line["message"] for line in whole)]
    if stored:
        assert search(mesh, wanted, len(stored)) == ("store", shipped)


def test_the_command_names_both_sources(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(log_search, "from_store", lambda *_: [])
    result = CliRunner().invoke(app, ["logs", "--trace", TRACE])
    assert result.exit_code == 0
    assert "3 lines from the store and files" in result.stderr
