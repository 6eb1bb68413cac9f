"""Components that come later: preparations and starts in the background."""

import os
from pathlib import Path

import pytest
from tiny_components import Build, prepared, service, up

from coinmesh_local import operations, processes
from coinmesh_local.testing import eventually

pytestmark = pytest.mark.slow


def test_what_comes_later_is_not_waited_for(build: Build) -> None:
    mesh = build(base=service(), slow=prepared("serve", "0", head='depends_on = {base = "ready"}'))
    up(mesh)
    assert mesh.status()["slow"]["state"] == "stopped"
    assert operations.start_later(mesh.mesh) == ["slow"]
    eventually(lambda: mesh.component("slow").pids(), "its preparation runs")
    assert mesh.status()["slow"]["state"] == "starting"
    assert mesh.status()["base"]["ready"]
    operations.down(mesh.home)
    assert processes.find(mesh.home.root) == {}


def test_progress_of_a_preparation_shows_in_status(build: Build, tmp_path: Path) -> None:
    script = tmp_path / "prepare.sh"
    script.write_text("""echo '{"message": "building it: 3 of 9 packages"}'\nexec sleep 600\n""")
    head = f'later = true\nwithout = "nothing is built"\nprepare = [["sh", "{script}"]]\n'
    mesh = build(base=service(), slow=service(head=head))
    up(mesh)
    pending = operations.start_later(mesh.mesh)
    expected = "building it: 3 of 9 packages"
    eventually(lambda: mesh.status()["slow"]["detail"] == expected, "the progress shows")
    assert mesh.status()["slow"]["state"] == "starting"
    line = operations.pending_line(mesh.mesh, pending)
    assert line.startswith("still being built: slow; until then nothing is built; all else works")
    operations.down(mesh.home)


def test_what_comes_later_gets_ready_in_the_background(build: Build) -> None:
    mesh = build(base=service(), slow=prepared("step", "${base.main}"))
    up(mesh)
    operations.start_later(mesh.mesh)
    mesh.component("slow").wait_ready()
    first = mesh.component("slow").pids()
    assert operations.start_later(mesh.mesh) == []
    up(mesh)
    assert mesh.component("slow").pids() == first


def test_up_of_component_starting_in_background_waits_for_it(build: Build, tmp_path: Path) -> None:
    runs, proceed = tmp_path / "runs", tmp_path / "proceed"
    script = f"echo run >> {runs}; until test -e {proceed}; do sleep 0.05; done"
    head = f'later = true\nprepare = [["/bin/sh", "-c", "{script}"]]'
    mesh = build(base=service(), slow=service(head=head))
    up(mesh)
    operations.start_later(mesh.mesh)
    eventually(runs.exists, "its preparation runs")
    conversation = operations.start(mesh.mesh, ["slow", "base"])
    events = conversation.events()
    proceed.touch()
    list(events)
    assert mesh.status()["slow"]["ready"]
    assert runs.read_text() == "run\n"


def test_a_preparation_finds_the_users_tools_and_the_component_does_not(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "tools" / "only-the-user-has-it"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\necho "found by way of $HTTPS_PROXY"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:{tool.parent}")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    prepare = f'prepare = [["/bin/sh", "-c", "{tool.name}"]]'
    asks = '["/bin/sh", "-c", "! command -v only-the-user-has-it"]'
    mesh = build(
        one=f'description = "step"\nkind = "step"\ncommand = {asks}\n{prepare}\n',
    )
    mesh.require("one")
    assert "found by way of http://127.0.0.1:9" in mesh.component("one").log()


def test_what_comes_later_and_fails_leaves_the_rest_alone(build: Build) -> None:
    mesh = build(base=service(), slow=prepared("fail"))
    up(mesh)
    operations.start_later(mesh.mesh)
    eventually(lambda: mesh.status()["slow"]["state"] == "failed", "its failure shows")
    assert "the reason why" in mesh.component("slow").log()
    assert mesh.status()["base"]["ready"]
    with pytest.raises(AssertionError, match="slow: "):
        mesh.require("slow")
