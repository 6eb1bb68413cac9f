"""The supervisor's files: OpenBao, its setup and the agent start in order and come back."""

import pytest

from coinmesh_access import certificates, table
from coinmesh_local.testing import TestMesh, Workspace, eventually
from meshkit.tls import CertificateFiles

pytestmark = pytest.mark.component


def test_the_supervisor_brings_certificates(workspace: Workspace) -> None:
    with TestMesh(workspace.root / "closed") as mesh:
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
