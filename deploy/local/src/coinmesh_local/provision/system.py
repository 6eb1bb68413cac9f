"""Debian packages: installed as root, otherwise reported with the command to install them."""

import os
import shutil
import subprocess
from collections.abc import Callable

from coinmesh_local.provision.errors import ProvisionError

#: Command → Debian package that provides it.
PACKAGES = {
    "redis-server": "redis-server",
    "mvn": "maven",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
    # The Elasticsearch output, which depends on rsyslog itself.
    "rsyslogd": "rsyslog-elasticsearch",
}


def _quiet(*command: str) -> subprocess.CompletedProcess[str]:
    # RUNLEVEL=1 prevents Debian's own copy of a service from being started on installation.
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def available(package: str) -> bool:
    """Return whether apt offers `package` here."""
    if shutil.which("apt-cache") is None:
        return False
    shown = _quiet("apt-cache", "policy", package).stdout
    if "Candidate:" not in shown and os.geteuid() == 0:
        _quiet("apt-get", "update")
        shown = _quiet("apt-cache", "policy", package).stdout
    return "Candidate:" in shown and "Candidate: (none)" not in shown


def install(package: str, progress: Callable[[str], None]) -> None:
    """Install `package` by apt-get, as root only.

    Raises:
        ProvisionError: The user isn't root or the installation failed; the message has the command.
    """
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
