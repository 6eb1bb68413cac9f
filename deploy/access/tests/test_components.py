"""The supervisor's files: OpenBao, its setup and the agent start in order and come back."""

from pathlib import Path

import pytest

from coinmesh_access import certificates, table
from coinmesh_local.definition import load
from coinmesh_local.paths import COMPONENTS
from coinmesh_local.testing import TestMesh, Workspace, eventually
from meshkit.tls import CertificateFiles

OURS = Path(__file__).parents[1] / "components"


def test_the_files_fit_among_the_meshs_own() -> None:
    assert {"openbao", "vault-setup", "certs"} <= set(load([COMPONENTS, OURS]))


@pytest.mark.component
def test_the_supervisor_brings_certificates(workspace: Workspace) -> None:
    with TestMesh(workspace.root / "closed", components=(COMPONENTS, OURS)) as mesh:
        mesh.require("certs")
        tls = mesh.home.root / "tls"
        for name in table.load().services:
            assert CertificateFiles(tls / name).read().not_after
        before = certificates.current(tls / "kafka")
        assert before is not None
        vault = mesh.component("openbao")
        vault.kill()
        eventually(lambda: mesh.status()["openbao"]["ready"], "OpenBao is back, unsealed")
        mesh.component("certs").restart()
        after = certificates.current(tls / "kafka")
        assert after is not None
        assert after.serial == before.serial
