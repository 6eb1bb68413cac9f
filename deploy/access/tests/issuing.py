"""Certificates from a real Vault, for tests."""

from pathlib import Path
from typing import Any

from coinmesh_access import certificates, pki, table
from coinmesh_access.agent import Agent
from coinmesh_access.pki import Lives
from meshkit.metrics import Metrics

TABLE = table.load()


def live(bao: Any, service: str, seconds: int) -> None:
    """Give certificates of `service` that life."""
    pki.ensure_role(bao.admin(), TABLE, service, Lives(leaf=seconds))


def renew(bao: Any, service: str, directory: Path) -> certificates.Published:
    return certificates.renew(bao.service(service), TABLE, service, directory)


def agent(bao: Any, hooks: Any = None) -> Agent:
    return Agent(bao.vault, bao.secrets, TABLE, hooks or {}, Metrics())
