"""Generate a new service from templates: `python -m coinmesh_manifests.skeleton NAME KIND [ABOUT]`.

It writes package, main, a servicer with one RPC, README, Dockerfile, tests, contract and manifest.
No existing file is changed: everything that lists services reads their manifests.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

from coinmesh_manifests import ports
from coinmesh_manifests.discovery import CHECKOUT, discover

Kind = Literal["service", "collector", "job"]
#: Folders of templates by kind; `all` applies to each kind.
TEMPLATES = Path(__file__).resolve().parents[2] / "skeleton"
#: The tree's packages that a kind's template imports, by directory.
LIBRARIES = {
    "service": {"libs/contracts": "coinmesh-contracts", "libs/meshkit": "meshkit"},
    "collector": {
        "libs/contracts": "coinmesh-contracts",
        "libs/meshkit": "meshkit",
        "libs/audit": "coinmesh-audit",
        "libs/sources": "coinmesh-sources",
    },
    "job": {"libs/contracts": "coinmesh-contracts", "libs/meshkit": "meshkit"},
}
PLACE = re.compile(r"@(\w+)@")


class SkeletonError(ValueError):
    """Raised when the requested service can't be generated; the message has the correction."""


def generate(tree: Path, name: str, kind: Kind, about: str = "") -> list[Path]:
    """Write the skeleton of a new service into `tree` and return its files.

    Raises:
        SkeletonError: The name is invalid or taken.
        ManifestError: A manifest of the tree is wrong.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise SkeletonError(f"{name!r}: a name is lower-case words joined by -, as in price-alerts")
    if name in (known := discover(tree)):
        raise SkeletonError(f"{name} is there already: {known[name].path}")
    stated = ports.settled(name, kind, known.values())
    values = _values(tree, name, kind, about)
    values["ports"] = (
        "run.ports = {" + ", ".join(f"{key} = {value}" for key, value in stated.items()) + "}"
        if stated
        else ""
    )
    written: list[Path] = []
    for path, text in _files(tree, kind, values):
        if path.exists():
            raise SkeletonError(f"{path} is there already")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        written.append(path)
    return written


def _values(tree: Path, name: str, kind: Kind, about: str) -> dict[str, str]:
    """Return the value of each placeholder of a template."""
    package, words = name.replace("-", "_"), name.split("-")
    directory = f"{'jobs' if kind == 'job' else 'services'}/{name}"
    api = "collector" if kind == "collector" else package
    served = f"the RPCs of [coinmesh.{api}.v1](../../proto/coinmesh/{api}/v1)"
    uv = re.search(r"^UV_VERSION := (\S+)$", (tree / "Makefile").read_text(), re.MULTILINE)
    assert uv is not None
    libraries = LIBRARIES[kind]
    dependencies = sorted([*libraries.values(), "grpcio>=1.85", "protobuf>=7.36"])
    return {
        "name": name,
        "package": package,
        "Class": "".join(word.capitalize() for word in words),
        "camel": words[0] + "".join(word.capitalize() for word in words[1:]),
        "source": name.removeprefix("collector-"),
        "directory": directory,
        "about": about or f"The {kind} {name}",
        "served": "nothing: it runs to its end when it is named" if kind == "job" else served,
        "uv": uv[1],
        "dependencies": "\n  ".join(f'"{one}",' for one in dependencies),
        "libraries": " ".join(libraries),
    }


def _files(tree: Path, kind: Kind, values: dict[str, str]) -> Iterator[tuple[Path, str]]:
    """Yield the target path and filled-in text of each template of the kind."""
    targets = {TEMPLATES / "all": values["directory"], TEMPLATES / kind: values["directory"]}
    if kind == "service":
        targets[TEMPLATES / "api"] = f"proto/coinmesh/{values['package']}/v1"
    for folder, target in targets.items():
        for template in sorted(folder.rglob("*.in")):
            place = _filled(str(template.relative_to(folder).with_suffix("")), values)
            text = _filled(template.read_text(), values)
            yield tree / target / place, text.rstrip("\n") + "\n" if text.strip() else ""


def _filled(text: str, values: dict[str, str]) -> str:
    return PLACE.sub(lambda place: values[place[1]], text)


def main(arguments: list[str]) -> int:
    """Return the exit status: 2 when the request can't be fulfilled."""
    if not 2 <= len(arguments) <= 3 or arguments[1] not in get_args(Kind):
        _tell(f"usage: make service NAME=… KIND={'|'.join(get_args(Kind))} [ABOUT='a sentence']")
        return 2
    name, kind, *about = arguments
    try:
        written = generate(CHECKOUT, name, kind, *about)  # type: ignore[arg-type]
    except SkeletonError as error:
        _tell(str(error))
        return 2
    sources = [str(path) for path in written if path.suffix == ".py"]
    ruff = Path(sys.executable).parent / "ruff"
    for command in (["check", "--quiet", "--select", "I", "--fix"], ["format", "--quiet"]):
        subprocess.run([ruff, *command, *sources], check=True)
    for path in written:
        _tell(str(path.relative_to(CHECKOUT)))
    return 0


def _tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
