"""OpenBao, its setup and the agent in order, and what becomes of the mesh without them."""

import pytest
from redis import Redis

from coinmesh_access import certificates, table
from coinmesh_local.steps import bucket
from coinmesh_local.testing import TestMesh, Workspace, eventually
from meshkit.redis_options import redis_options
from meshkit.settings import RedisSettings, S3Settings
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


@pytest.mark.parametrize("name", ["redis", "seaweedfs"])
def test_a_store_comes_back_while_vault_is_away(mesh: TestMesh, name: str) -> None:
    mesh.require(name, "certs")
    vault, store = mesh.component("openbao"), mesh.component(name)
    vault.stop()
    try:
        store.kill()
        store.wait_ready()
        if name == "redis":
            settings = mesh.read(RedisSettings)
            with Redis.from_url(settings.redis_url, **redis_options(settings)) as client:
                assert client.ping()
        else:
            bucket.create(mesh.read(S3Settings))
    finally:
        vault.start()
