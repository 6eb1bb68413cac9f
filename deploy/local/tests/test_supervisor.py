"""The supervisor with tiny components: order, readiness, crashes, interrupts, stale state."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tiny_components import Build, kill_supervisor, service, step, supervisor, up

from coinmesh_local import control, operations, processes
from coinmesh_local.paths import BIN
from coinmesh_local.testing import eventually

pytestmark = pytest.mark.slow


def test_order_follows_dependencies_and_readiness(build: Build) -> None:
    mesh = build(
        first=service("--delay", "0.7"),
        check=step("step", "${first.main}", 'depends_on = {first = "ready"}'),
        last=service(head='depends_on = {check = "completed"}'),
    )
    mesh.require("last")
    states = {name: row["state"] for name, row in mesh.status().items()}
    assert states == {"first": "ready", "check": "done", "last": "ready"}


def test_only_what_is_asked_for_starts(build: Build) -> None:
    mesh = build(one=service(), other=service())
    mesh.require("one")
    assert mesh.status()["other"]["state"] == "stopped"


def test_probes_of_loopback_use_no_proxy(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    words = [sys.executable, "-m", "http.server", "${port.main}", "--bind", "127.0.0.1"]
    text = f'description = "answers"\ncommand = {words}\ntimeout = 60\n[ports]\nmain = 1\n'
    mesh = build(web=text + '[ready]\nkind = "http"\ntarget = "http://${listen.main}/"\n')
    up(mesh)
    assert mesh.status()["web"]["ready"]


def test_failure_shows_the_log_and_undoes_the_start(build: Build) -> None:
    mesh = build(good=service(), bad=step("fail", head='depends_on = {good = "ready"}'))
    with pytest.raises(AssertionError, match=r"(?s)bad: ended with status 7.*the reason why"):
        mesh.require("bad")
    assert processes.find(mesh.home.root) == {}


def test_one_that_never_gets_ready_fails(build: Build) -> None:
    mesh = build(slow=service("--delay", "60", timeout=0.5))
    with pytest.raises(AssertionError, match="slow: not ready after"):
        mesh.require("slow")


def test_missing_command_is_named(build: Build) -> None:
    mesh = build(ghost='description = "x"\ncommand = ["/no/such/command"]\n')
    with pytest.raises(AssertionError, match="ghost: cannot start /no/such/command"):
        mesh.require("ghost")


def test_crashed_component_is_restarted(build: Build) -> None:
    mesh = build(one=service("--child"))
    mesh.require("one")
    one = mesh.component("one")
    before = one.pids()
    assert len(before) == 2
    one.kill()
    eventually(lambda: mesh.status()["one"]["restarts"] == 1, "it is restarted")
    one.wait_ready()
    assert not set(before) & set(one.pids()), "children of the crashed process are ended too"


def test_crash_loop_is_visible_and_paced(build: Build, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    mesh = build(one=service("--until", str(flag)))
    mesh.require("one")
    flag.touch()

    def crashed() -> bool:
        row = mesh.status()["one"]
        return row["state"] == "crashed" and row["restarts"] >= 1

    eventually(crashed, "its crashes are counted")
    flag.unlink()
    mesh.component("one").wait_ready()


def test_taken_port_is_named_with_its_holder(build: Build) -> None:
    mesh = build(one=service())
    taken = socket.create_server(("127.0.0.1", mesh.mesh.ports["one"]["main"][0]))
    named = pytest.raises(AssertionError, match=rf"one: port \d+ .*pid {os.getpid()}: ")
    with taken, named:
        mesh.require("one")
    mesh.require("one")


def test_processes_outlive_a_killed_supervisor_and_are_taken_over(build: Build) -> None:
    mesh = build(one=service(), other=service())
    up(mesh)
    before = mesh.component("one").pids()
    kill_supervisor(mesh)
    assert mesh.status()["one"]["state"] == "unsupervised"
    mesh.component("other").kill()
    up(mesh)
    assert mesh.component("one").pids() == before
    assert mesh.status()["other"]["ready"]
    mesh.component("one").kill()
    eventually(lambda: mesh.status()["one"]["restarts"] == 1, "it is watched again")


def test_down_finds_what_a_killed_supervisor_left(build: Build) -> None:
    mesh = build(one=service("--deaf", "--child"))
    up(mesh)
    kill_supervisor(mesh)
    assert operations.down(mesh.home)
    assert processes.find(mesh.home.root) == {}
    assert not operations.down(mesh.home)


def test_stale_and_damaged_state_stops_nothing(build: Build) -> None:
    mesh = build(one=service())
    up(mesh)
    kill_supervisor(mesh)
    mesh.component("one").kill()
    (mesh.home.run / "ports.json").write_text("{half a file")
    (mesh.home.run / "supervisor.lock").write_text("4711")
    up(mesh)
    assert mesh.status()["one"]["ready"]


def test_a_start_password_lives_as_long_as_the_mesh_is_up(build: Build) -> None:
    fill = ["${python}", "-m", "coinmesh_local.start_password", "${secrets}/start/jmx"]
    head = f"prepare = {[[*fill, '${run}/jmx.yml']]}"
    component = service(head=f'{head}\nfiles = {{"jmx.yml" = "kafka-jmx.yml"}}')
    mesh = build(one=component, other=component)
    used: set[str] = set()
    for _ in range(2):
        up(mesh)
        mesh.component("one").restart()
        password = (mesh.home.start_passwords / "jmx").read_text()
        for name in ("one", "other"):
            assert f'password: "{password}"' in (mesh.home.run / name / "jmx.yml").read_text()
        used.add(password)
        operations.down(mesh.home)
        assert not mesh.home.start_passwords.exists()
    assert len(used) == 2


def test_deaf_components_and_their_children_are_killed(build: Build) -> None:
    mesh = build(one=service("--deaf", "--child"))
    up(mesh)
    assert len(mesh.component("one").pids()) == 2
    operations.down(mesh.home)
    assert processes.find(mesh.home.root) == {}


def test_a_request_that_comes_too_late_goes_to_the_next_supervisor(build: Build) -> None:
    mesh = build(one=service())
    mesh.home.create()
    with control.socket_address(mesh.home) as address, socket.socket(socket.AF_UNIX) as leaving:
        leaving.bind(address)
        leaving.listen()

        def leave() -> None:
            leaving.accept()[0].close()
            leaving.close()

        thread = threading.Thread(target=leave)
        thread.start()
        up(mesh)
        thread.join()
    assert mesh.status()["one"]["ready"]


def test_second_up_is_warm_and_a_changed_definition_restarts(build: Build, tmp_path: Path) -> None:
    mesh = build(one=service(), other=service())
    up(mesh)
    one, other = mesh.component("one").pids(), mesh.component("other").pids()
    up(mesh)
    assert (mesh.component("one").pids(), mesh.component("other").pids()) == (one, other)
    (tmp_path / "other.toml").write_text(service("--delay", "0.01"))
    up(mesh)
    assert mesh.component("one").pids() == one
    assert mesh.component("other").pids() != other


def test_fewer_replicas_stop_the_rest(build: Build, tmp_path: Path) -> None:
    mesh = build(one=service(head='replicas = "3"'))
    up(mesh)
    assert set(processes.find(mesh.home.root)) == {"one-1", "one-2", "one-3"}
    (tmp_path / "one.toml").write_text(service(head='replicas = "2"'))
    up(mesh)
    assert set(processes.find(mesh.home.root)) == {"one-1", "one-2"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_up_leaves_nothing(build: Build, number: signal.Signals) -> None:
    mesh = build(quick=service(), slow=service("--delay", "60", timeout=60))
    mesh.home.create()
    mesh.mesh.save()
    command = subprocess.Popen(
        [str(BIN / "coinmesh"), "up"],
        env=os.environ | {"COINMESH_HOME": str(mesh.home.root), "COINMESH_PORTS": "free"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    eventually(lambda: set(processes.find(mesh.home.root)) == {"quick", "slow"}, "both start")
    command.send_signal(number)
    output, _ = command.communicate(timeout=60)
    assert command.returncode == 130, output
    assert processes.find(mesh.home.root) == {}


def test_what_is_held_ends_with_its_holder(build: Build) -> None:
    mesh = build(one=service())
    script = (
        "import os, sys; from pathlib import Path\n"
        "from coinmesh_local.testing import TestMesh\n"
        "mesh = TestMesh(Path(sys.argv[1]), components=(Path(sys.argv[2]),))\n"
        "mesh.require('one'); os.kill(os.getpid(), 9)"
    )
    arguments = [str(mesh.root), str(mesh.components[0])]
    subprocess.run([sys.executable, "-c", script, *arguments], check=False)
    eventually(lambda: processes.find(mesh.home.root) == {}, "it stops with its holder")


def test_status_of_a_home_without_supervisor_starts_nothing(build: Build) -> None:
    mesh = build(one=service())
    assert mesh.status()["one"]["state"] == "stopped"
    with pytest.raises(AssertionError):
        supervisor(mesh)
