"""Debian packages: installed where the user may, else named with the command."""

import os
import shutil
import subprocess
from collections.abc import Callable

from coinmesh_local.provision.errors import ProvisionError

#: Command → Debian package that brings it.
PACKAGES = {
    "redis-server": "redis-server",
    "mvn": "maven",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
    # Its Elasticsearch output, which brings rsyslog itself.
    "rsyslogd": "rsyslog-elasticsearch",
}


def _quiet(*command: str) -> subprocess.CompletedProcess[str]:
    # RUNLEVEL=1 keeps Debian's own copy of a service from being started on installation.
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def available(package: str) -> bool:
    """Whether apt offers `package` here."""
    if shutil.which("apt-cache") is None:
        return False
    shown = _quiet("apt-cache", "policy", package).stdout
    if "Candidate:" not in shown and os.geteuid() == 0:
        _quiet("apt-get", "update")
        shown = _quiet("apt-cache", "policy", package).stdout
    return "Candidate:" in shown and "Candidate: (none)" not in shown


def install(package: str, progress: Callable[[str], None]) -> None:
    """apt-get install, as root only; ProvisionError with the command otherwise or on failure."""
    command = f"apt-get install -y --no-install-recommends {package}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ProvisionError(f"{package} is missing. Way out: sudo {command}")
    progress(f"installing Debian's {package}")
    result = _quiet(*command.split())
    if result.returncode != 0:
        _quiet("apt-get", "update")
        result = _quiet(*command.split())
    if result.returncode != 0:
        raise ProvisionError(f"`{command}` failed:\n{result.stderr.strip()[-2000:]}")


def ensure(name: str, progress: Callable[[str], None]) -> None:
    """Make the command `name` available."""
    if shutil.which(name) is None:
        install(PACKAGES[name], progress)
    if shutil.which(name) is None:
        raise ProvisionError(f"{name} is not on PATH although {PACKAGES[name]} is installed")
