"""Programs built from the Go module proxy: one small module per program pins all dependencies."""

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from coinmesh_local.paths import POMS, cache_directory
from coinmesh_local.provision import cache
from coinmesh_local.provision.errors import ProvisionError

#: The modules below `provision/` and the program that each builds: go.mod names it as its tool and
#: go.sum pins it; our own sources are beside them.
PACKAGES = {
    "jaeger": "github.com/jaegertracing/jaeger",
    "ratelimit": "github.com/envoyproxy/ratelimit",
}


#: Number of compiled packages between two progress lines.
PACKAGES_PER_LINE = 25


def directory(name: str) -> Path:
    """Return the program's cache directory; the key covers all pins and our own sources."""
    sources = sorted(path for path in (POMS / name).rglob("*") if path.is_file())
    pins = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    return cache_directory() / f"{name}-{version(name)}-{pins[:8]}"


def ensure(name: str, progress: Callable[[str], None]) -> None:
    """Build `name`, every module verified against go.sum, unless the cache has it."""
    target = directory(name)
    if target.is_dir():
        return
    if shutil.which("go") is None:
        raise ProvisionError(
            f"go is not on PATH, and {name} is built with it. Way out: install Go {_least(name)} "
            "or newer"
        )
    cache.fill(target, lambda temporary: _build(name, target.name, temporary, progress))


def _build(name: str, label: str, into: Path, progress: Callable[[str], None]) -> None:
    # Used by this build only, so that it can be deleted; an interrupted build resumes from it.
    scratch = cache_directory() / f"go-{label}"
    # Go's own temporary directories hold hundreds of MiB, and a stopped build leaves them.
    temporary = scratch / "tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    environment = os.environ | {
        "TMPDIR": str(temporary),
        "GOTMPDIR": str(temporary),
        "GOCACHE": str(scratch / "build"),
        "GOMODCACHE": str(scratch / "modules"),
        "GOWORK": "off",
        # A read-only tree could not be removed afterwards.
        "GOFLAGS": "-modcacherw",
    }
    progress(f"building {label} (some minutes, once): downloading its modules")
    packages = _packages(name, environment)
    lines: list[str] = []
    compiled = 0
    flags = ["-v", "-mod=readonly", "-trimpath", "-ldflags=-s -w", f"-o={into}/"]
    with subprocess.Popen(
        ["go", "build", *flags, "tool"],
        cwd=POMS / name,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as build:
        assert build.stderr is not None
        try:
            for line in build.stderr:
                if line.strip() in packages:  # with -v Go prints each package that it compiles
                    compiled += 1
                    if compiled % PACKAGES_PER_LINE == 0:
                        progress(f"building {label}: {compiled} of {len(packages)} packages")
                elif "downloading" not in line:
                    lines.append(line.rstrip())
        except BaseException:
            build.kill()
            raise
    if build.returncode != 0:
        raise ProvisionError(
            f"Go could not build {label}:\n" + "\n".join(lines[-20:]) + "\n"
            "Way out: check the network and Go's version, then run the same command again"
        )
    # Gigabytes that are no longer needed.
    shutil.rmtree(scratch, ignore_errors=True)


def _packages(name: str, environment: Mapping[str, str]) -> set[str]:
    """Return the packages that the program consists of; empty when Go can't list them."""
    result = subprocess.run(
        ["go", "list", "-mod=readonly", "-deps", "tool"],
        cwd=POMS / name,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return set(result.stdout.split()) if result.returncode == 0 else set()


def version(name: str) -> str:
    """Return the version of the module that provides the program."""
    found = re.search(rf"\s{PACKAGES[name]} (v\S+)", (POMS / name / "go.mod").read_text())
    assert found is not None
    return found[1]


def _least(name: str) -> str:
    found = re.search(r"^go (\S+)$", (POMS / name / "go.mod").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]
