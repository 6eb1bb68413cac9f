"""The command `coinmesh-envoy-config`: write Envoy's configuration to a file."""

import logging
from collections.abc import Sequence
from pathlib import Path

from coinmesh_contracts.sources import descriptor_set
from coinmesh_gateway import arguments as command_arguments
from coinmesh_gateway.catalogue import CatalogueError, declared
from coinmesh_gateway.config import generate, secured, vault_ca, write_all
from meshkit import logs
from meshkit.settings import SettingsError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 2 when an argument or setting is wrong."""
    options = command_arguments.parse(arguments)
    try:
        catalogue = declared(options.tree)
        settings = command_arguments.settings(options, catalogue)
        config = generate(catalogue, descriptor_set(), settings)
        out = Path(options.out).absolute()
        write_all(out, config, secured(settings), vault_ca(settings))
    except (CatalogueError, SettingsError) as error:
        _fail(str(error))
        return 2
    except OSError as error:
        _fail(f"can't write {error.filename}: {error.strerror}")
        return 2
    return 0


def _fail(why: str) -> None:
    logs.tell(__name__, f"coinmesh-envoy-config: {why}", logging.ERROR)


if __name__ == "__main__":
    raise SystemExit(main())
