"""Find JDKs in JAVA_HOME and JAVA_HOME_*, then /usr/lib/jvm; release files hold the versions."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from coinmesh_local.provision import system
from coinmesh_local.provision.errors import ProvisionError


@dataclass(frozen=True)
class Need:
    """A range of Java versions, and the Debian packages that satisfy it, best first."""

    lowest: int
    highest: int
    packages: tuple[str, ...]
    used_by: str
    otherwise: str = ""


NEEDS = {
    "jdk17": Need(17, 17, ("openjdk-17-jdk-headless",), "Kafka, Cassandra and Spark"),
    "jdk21": Need(
        21,
        99,
        ("openjdk-25-jre-headless", "openjdk-21-jre-headless"),
        "the schema registry (Apicurio)",
        " A Temurin, Corretto or Zulu JDK unpacked under /usr/lib/jvm or named by JAVA_HOME_21 "
        "serves as well.",
    ),
}


def version(home: Path) -> int | None:
    """Return the feature version of the JDK at `home` (8 for 1.8), None when it is not a JDK."""
    try:
        release = (home / "release").read_text()
    except OSError:
        return None
    found = re.search(r'^JAVA_VERSION="(?:1\.)?(\d+)', release, re.MULTILINE)
    return int(found[1]) if found and os.access(home / "bin/java", os.X_OK) else None


def candidates() -> list[Path]:
    """Return possible JDK homes: those in variables first, so that a user's choice wins."""
    named = [
        Path(os.environ[key])
        for key in sorted(os.environ)
        if key == "JAVA_HOME" or key.startswith("JAVA_HOME_")
    ]
    jvm = Path("/usr/lib/jvm")
    return named + (sorted(jvm.iterdir()) if jvm.is_dir() else [])


def find(need: Need) -> Path | None:
    """Return the first JDK whose version is in the range."""
    for home in candidates():
        found = version(home)
        if found is not None and need.lowest <= found <= need.highest:
            return home.resolve()
    return None


def ensure(name: str, progress: Callable[[str], None]) -> None:
    """Find the JDK, or install Debian's as root.

    Raises:
        ProvisionError: There is none; the message has the remedy.
    """
    need = NEEDS[name]
    if find(need):
        return
    package = next((p for p in need.packages if system.available(p)), None)
    if package:
        system.install(package, progress)
        if find(need):
            return
    wanted = f"JDK {need.lowest}" if need.highest == need.lowest else f"JDK {need.lowest} or newer"
    there = ", ".join(f"{v} at {p}" for p in candidates() if (v := version(p))) or "none"
    command = f"apt-get install {package}" if package else "install one (Debian offers none here)"
    raise ProvisionError(
        f"{need.used_by} need{'s' if need.otherwise else ''} a {wanted}; found: {there}. "
        f"Way out: {command}, or point JAVA_HOME_{need.lowest} at one.{need.otherwise}"
    )
