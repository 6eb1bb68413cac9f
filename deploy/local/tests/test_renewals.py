"""Hooks after a certificate's renewal: what is stale, and whether a hook had an effect."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from coinmesh_local import control, operations, processes, renewals
from coinmesh_local.testing import TestMesh, Workspace, eventually

FAKE = [sys.executable, str(Path(__file__).with_name("fake.py"))]


def kill_supervisor(mesh: TestMesh) -> None:
    """kill -9 of the supervisor; the components outlive it."""
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"coinmesh_local.daemon" in words and str(mesh.home.root).encode() in words:
            os.kill(int(entry.name), signal.SIGKILL)
    eventually(lambda: control.connect(mesh.home) is None, "the supervisor is gone")


@pytest.mark.slow
def test_stale_without_supervisor_names_running_instance(
    workspace: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "redis.toml").write_text(
        f'description = "listens"\ncommand = {[*FAKE, "serve", "${port.redis}"]}\n'
        '[ports]\nredis = 1\n[ready]\nkind = "tcp"\ntarget = "${listen.redis}"\n'
    )
    with TestMesh(workspace.root / tmp_path.name, components=(tmp_path,)) as mesh:
        mesh.require("redis")
        certificate = mesh.home.tls / "redis" / "current" / "tls.crt"
        certificate.parent.mkdir(parents=True)
        certificate.touch()
        os.utime(certificate, (time.time() + 1, time.time() + 1))
        assert renewals.stale(mesh.mesh, "redis") == ["redis"]
        kill_supervisor(mesh)
        try:
            assert renewals.stale(mesh.mesh, "redis") == ["redis"]
        finally:
            for pid in processes.find(mesh.home.root)["redis"].members:
                os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_failed_restart_leaves_unsupervised_components_running(
    workspace: Workspace, tmp_path: Path
) -> None:
    for name in ("apicurio", "other"):
        (tmp_path / f"{name}.toml").write_text(
            f'description = "listens"\ncommand = {[*FAKE, "serve", "${port.main}"]}\n'
            '[ports]\nmain = 1\n[ready]\nkind = "tcp"\ntarget = "${listen.main}"\n'
        )
    with TestMesh(workspace.root / tmp_path.name, components=(tmp_path,)) as mesh:
        operations.start(mesh.mesh, []).answer()
        other = mesh.component("other").pids()
        kill_supervisor(mesh)
        (tmp_path / "apicurio.toml").write_text(
            f'description = "fails"\ncommand = {[*FAKE, "fail"]}\n[ports]\nmain = 1\n'
            '[ready]\nkind = "tcp"\ntarget = "${listen.main}"\n'
        )
        # As the certificate agent's hook does it: from inside a component.
        script = (
            "import sys; from pathlib import Path; from coinmesh_local import operations; "
            "from coinmesh_local.paths import Home; "
            "operations.ask(Home(Path(sys.argv[1])), 'restart', ['apicurio']).answer()"
        )
        mark = processes.mark(mesh.home.root, "certs", "")
        result = subprocess.run(
            [sys.executable, "-c", script, str(mesh.home.root)],
            env=os.environ | {processes.MARK: mark},
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert "ended with status 7" in result.stderr
        assert mesh.component("other").pids() == other
        assert "certs" not in processes.find(mesh.home.root)
        rows = mesh.status()
        assert rows["other"]["state"] == "unsupervised"
        assert rows["other"]["started"] is not None


@pytest.mark.component
def test_openbaos_listener_is_renewed_while_it_runs(workspace: Workspace) -> None:
    with TestMesh(workspace.root / "listener") as mesh:
        mesh.require("certs")
        current = renewals.certificate(mesh.mesh, "openbao")
        issued, pids = current.read_bytes(), mesh.component("openbao").pids()
        mesh.component("certs").signal(signal.SIGHUP)
        eventually(lambda: current.read_bytes() != issued, "the certificate is renewed")
        eventually(lambda: not renewals.outdated_listeners(mesh.mesh, "openbao"), "it is served")
        assert mesh.component("openbao").pids() == pids


@pytest.mark.component
def test_hook_without_effect_fails_and_with_effect_succeeds(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with TestMesh(workspace.root / "hooks") as mesh:
        mesh.require("redis")
        current = mesh.home.tls / "redis" / "current" / "tls.crt"
        issued = current.read_bytes()
        mesh.component("certs").signal(signal.SIGHUP)
        eventually(lambda: current.read_bytes() != issued, "redis' certificate is renewed")
        kill_supervisor(mesh)
        monkeypatch.setattr(sys, "argv", ["renewals", str(mesh.home.root), "redis"])
        eventually(lambda: renewals.main() == 0, "the hook takes effect without a supervisor")
        # As after a renewal whose hook does nothing.
        monkeypatch.setattr(renewals, "EFFECT_SECONDS", 0.5)
        monkeypatch.setattr(renewals, "HOOKS", {"redis": lambda _: None})
        current.write_bytes((mesh.home.tls / "deploy" / "current" / "tls.crt").read_bytes())
        capsys.readouterr()
        assert renewals.main() == 1
        assert "redis at 127.0.0.1" in capsys.readouterr().err
