"""`coinmesh-audit-anchor`: the process that anchors the audit chains."""

import sys

from coinmesh_access.anchoring import Anchoring, AnchorSettings, Signer
from coinmesh_access.login import Vault
from coinmesh_audit.store import AnchorStore
from meshkit.metrics import Metrics
from meshkit.service import configure, run, serve


def main() -> None:
    """Run until a termination signal arrives."""
    sys.exit(run(_serve()))


async def _serve() -> int:
    settings = configure(AnchorSettings)
    metrics = Metrics()
    signer = Signer(Vault(settings.vault_addr, settings.vault_ca), settings.secrets_dir)
    anchoring = Anchoring(settings, AnchorStore(settings), signer, metrics)
    return await serve(settings, resources=[anchoring], metrics=metrics)
