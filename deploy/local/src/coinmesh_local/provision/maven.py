"""Pinned downloads from Maven: one small pom per component determines the artifacts."""

import hashlib
import os
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from coinmesh_local.paths import POMS, cache_directory
from coinmesh_local.provision import cache, java, system
from coinmesh_local.provision.errors import ProvisionError

#: Names of the poms below `provision/`.
PACKAGES = ("kafka", "apicurio", "cassandra", "spark-jars", "jmx-exporter", "opensearch")


def directory(name: str) -> Path:
    """Return the cache directory of `name`; the key covers version and pom."""
    text = (POMS / f"{name}.pom.xml").read_bytes()
    release = ElementTree.fromstring(text).findtext("version")
    return cache_directory() / f"{name}-{release}-{hashlib.sha256(text).hexdigest()[:8]}"


def ensure(name: str, progress: Callable[[str], None]) -> None:
    """Download `name` and its dependencies, checksums verified, unless the cache has it."""
    target = directory(name)
    if not target.is_dir():
        system.ensure("mvn", progress)
        cache.fill(target, lambda temporary: _download(name, target.name, temporary, progress))


def _download(name: str, label: str, into: Path, progress: Callable[[str], None]) -> None:
    command = [
        "mvn",
        "--batch-mode",
        "--strict-checksums",
        f"--file={POMS / name}.pom.xml",
        f"-Dmaven.repo.local={cache_directory() / 'maven'}",
        "-DincludeScope=runtime",
        f"-DoutputDirectory={into}",
        "dependency:copy-dependencies",
    ]
    progress(f"downloading {label}")
    # Maven's local repository is not safe against concurrent writers of other processes.
    with cache.locked("maven"):
        _run_maven(command, label, progress)
    for archive in into.glob("*.tar.gz"):
        progress(f"unpacking {archive.name}")
        with tarfile.open(archive) as packed:
            packed.extractall(into, filter="data")
        archive.unlink()
    # OpenSearch before its plugins, which are unpacked into its own directory.
    for archive in sorted(into.glob("*.zip"), key=_is_plugin):
        progress(f"unpacking {archive.name}")
        home = next(into.glob("*/modules")).parent if _is_plugin(archive) else None
        shutil.unpack_archive(archive, home / "plugins" / archive.stem if home else into)
        archive.unlink()


def _is_plugin(archive: Path) -> bool:
    with zipfile.ZipFile(archive) as packed:
        return "plugin-descriptor.properties" in packed.namelist()


def _run_maven(command: list[str], label: str, progress: Callable[[str], None]) -> None:
    jdk = java.find(java.Need(17, 99, (), "Maven"))
    environment = os.environ | ({"JAVA_HOME": str(jdk)} if jdk else {})
    lines: list[str] = []
    files = 0
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as maven:
        assert maven.stdout is not None
        try:
            for line in maven.stdout:
                lines.append(line)
                if "Downloaded from" in line and (".jar" in line or ".tar.gz" in line):
                    files += 1
                    progress(f"downloading {label}: {files} files")
        except BaseException:
            maven.kill()
            raise
    if maven.returncode != 0:
        errors = [line for line in lines if line.startswith("[ERROR]")][:8] or lines[-20:]
        raise ProvisionError(
            f"Maven could not fetch {label}:\n{''.join(errors)}"
            "Way out: check the network and Maven's settings, then run the same command again"
        )
