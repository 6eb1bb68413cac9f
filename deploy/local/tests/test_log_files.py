"""Rotation of logs that are being written."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from coinmesh_access.login import Vault
from coinmesh_local import daemon, log_files
from coinmesh_local.paths import Home
from coinmesh_local.testing import TestMesh, eventually

#: Writes numbered lines as a component does: its standard error is the log, opened for appending.
WRITER = """
import itertools, os, time
for number in itertools.count():
    os.write(2, b"line %08d of a live log\\n" % number)
    time.sleep(0.0002)
"""
LINE_BYTES = len("line 00000000 of a live log\n")
LIMIT = 100 * LINE_BYTES
ROTATIONS = 20


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Path]:
    """A log that a process writes."""
    path = tmp_path / "live.log"
    with open(path, "ab") as log:
        writer = subprocess.Popen([sys.executable, "-c", WRITER], stderr=log)
    yield path
    writer.kill()
    writer.wait()


def numbers(path: Path) -> list[int]:
    """Of the file's whole lines; only the last may be torn, by the rotation or by being written."""
    *lines, last = path.read_text().split("\n")
    assert all(len(line) + 1 == LINE_BYTES for line in lines)
    assert len(last) < LINE_BYTES
    return [int(line.split()[1]) for line in lines]


def test_a_rotation_loses_only_what_is_written_in_its_last_moment(live: Path) -> None:
    copy, kept = live.with_suffix(".log.1"), []
    for _ in range(ROTATIONS):
        eventually(lambda: log_files.rotate(live, LIMIT), "the log is above the limit")
        kept.append(numbers(copy))
    eventually(lambda: live.stat().st_size > LIMIT, "it is written on")
    kept.append(numbers(live))
    for part in kept:
        assert part == list(range(part[0], part[-1] + 1)), "lines are lost or repeated in a file"
    lost = [after[0] - before[-1] - 1 for before, after in pairwise(kept)]
    assert min(lost) >= 0, "a line is in two files"
    assert sum(lost) < kept[-1][-1] / 10, lost


def test_a_log_below_the_limit_is_left_alone(tmp_path: Path) -> None:
    log = tmp_path / "one.log"
    log.write_bytes(b"x" * LIMIT)
    assert not log_files.rotate(log, LIMIT)
    assert [path.name for path in tmp_path.iterdir()] == ["one.log"]


def test_a_copy_is_as_private_as_its_log(tmp_path: Path) -> None:
    log, copy = tmp_path / "audit.log", tmp_path / "audit.log.1"
    copy.write_text("before")
    log.write_text("secret")
    log.chmod(0o600)
    assert log_files.rotate(log, 1)
    assert copy.stat().st_mode & 0o777 == 0o600
    assert (copy.read_text(), log.read_text()) == ("secret", "")


async def test_every_log_is_rotated_whoever_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "ROTATION", 0.01)
    monkeypatch.setattr(log_files, "LIMIT", 10)
    home = Home(tmp_path)
    home.create()
    names = ("kafka", "openbao", "supervisor")
    # One that can't be rotated keeps none of the others from it.
    (home.logs / "kafka.log.1").mkdir()
    for name in names:
        home.log(name).write_text("more than ten bytes")
    task = asyncio.create_task(daemon.Daemon(home).rotate_logs())
    try:
        rotated = [home.log(name) for name in names[1:]]
        await asyncio.to_thread(
            eventually, lambda: not any(log.stat().st_size for log in rotated), "all are emptied"
        )
    finally:
        task.cancel()
    assert home.log("kafka").read_text() == "more than ten bytes"


def test_every_copy_of_an_audit_log_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "openbao-audit-1.log"
    for number in range(1, 12):
        log.write_text(f"records {number}")
        assert log_files.set_aside(log, 1)
        assert not log.exists()
    kept = [copy.read_text() for copy in log_files.copies(log)]
    assert kept == [f"records {number}" for number in range(1, 12)]


@pytest.mark.component
def test_vault_reopens_audit_logs_that_were_set_aside(mesh: TestMesh) -> None:
    mesh.require("certs")
    place = Vault(mesh.settings["COINMESH_VAULT_ADDR"], Path(mesh.settings["COINMESH_VAULT_CA"]))
    devices = [mesh.home.log(f"openbao-audit-{number}") for number in (1, 2)]
    # Twice: no earlier copy goes.
    for copies in (1, 2):
        before = [device.read_bytes() for device in devices]
        for device in devices:
            assert log_files.set_aside(device, 0)
        eventually(lambda: all(device.exists() for device in devices), "Vault reopens them")
        place.login(mesh.home.secrets, "deploy")
        for device, written in zip(devices, before, strict=True):
            lines = [json.loads(text) for text in device.read_text().splitlines()]
            assert "auth/approle/login" in {line["request"]["path"] for line in lines}
            *_, last = log_files.copies(device)
            assert last.name == f"{device.name}.{copies}"
            assert last.read_bytes().startswith(written)
            assert os.stat(last).st_mode & 0o777 == 0o600
