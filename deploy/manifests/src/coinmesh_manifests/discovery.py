"""Discovery of a tree's manifests, and their consistency."""

import tomllib
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from coinmesh_manifests.manifest import Manifest

#: The checkout that contains this package.
CHECKOUT = Path(__file__).resolve().parents[4]
#: `NAME/service.toml` and `NAME/job.toml`; where a package has several, `NAME.job.toml`.
PLACES = (
    "services/*/service.toml",
    "jobs/*/job.toml",
    "jobs/*/*.job.toml",
    "simulators/*.simulator.toml",
)


class ManifestError(Exception):
    """Raised when a manifest is wrong; the message names the file and the correction."""


def read(path: Path) -> Manifest:
    """Return one manifest; ManifestError when it is unreadable or inconsistent."""
    name, _, more = path.name.removesuffix(".toml").partition(".")
    try:
        told = tomllib.loads(path.read_text())
        return Manifest(name=name if more else path.parent.name, path=path, **told)
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, TypeError) as error:
        raise ManifestError(f"{path}: {error}") from error
    except ValidationError as error:
        lines = [
            f"{path}: {'.'.join(str(part) for part in detail['loc'])}: {detail['msg']}"
            for detail in error.errors(include_url=False)
        ]
        raise ManifestError("\n".join(lines)) from error


def discover(tree: Path = CHECKOUT) -> dict[str, Manifest]:
    """Return all manifests of `tree` by name; ManifestError when two have the same name."""
    found: dict[str, Manifest] = {}
    for path in _paths(tree):
        manifest = read(path)
        if manifest.name in found:
            raise ManifestError(f"{path}: {found[manifest.name].path} has the same name")
        found[manifest.name] = manifest
    return found


def _paths(tree: Path) -> Iterable[Path]:
    return sorted(path for place in PLACES for path in tree.glob(place))
