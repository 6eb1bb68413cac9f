"""Checks of the machine against the mesh's requirements. Nothing is changed."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import sys
from collections.abc import Iterator

import psutil

from coinmesh_cli.findings import Finding
from coinmesh_local import ports, processes
from coinmesh_local.mesh import Mesh
from coinmesh_local.paths import cache_directory
from coinmesh_local.provision import java, system

GIB = 1 << 30
MIN_DISK = 10 * GIB
MIN_FILES = 4096
#: The minimum that OpenSearch and Cassandra check at their start: both map many files.
MIN_MAPS = 262_144
#: Result of adjtimex while the clock isn't synchronized (adjtimex(2)).
TIME_ERROR = 5


def check(mesh: Mesh) -> Iterator[Finding]:
    """Yield the findings of all checks of the machine, for the components of `mesh`."""
    yield from programs(mesh)
    yield from memory(mesh)
    yield from disk(mesh)
    yield from limits()
    yield clock()
    yield from taken_ports(mesh)


def programs(mesh: Mesh) -> Iterator[Finding]:
    """Check Python, JDKs, and the commands that provision or build components."""
    found = ".".join(str(part) for part in sys.version_info[:3])
    yield Finding("python", "ok", f"{found} at {sys.executable}")
    wanted = {what for one in mesh.definitions.values() for what in one.provision}
    for name in sorted(wanted & java.NEEDS.keys()):
        need = java.NEEDS[name]
        home = java.find(need)
        if home is not None:
            yield Finding(name, "ok", f"version {java.version(home)} at {home}")
            continue
        do = f"apt-get install {need.packages[0]}, or point JAVA_HOME_{need.lowest} at one"
        yield Finding(name, "bad", f"{need.used_by} have no JDK", do)
    debian = {name: package for name, package in system.PACKAGES.items() if name in wanted}
    for command, package in ({"mvn": "maven", "go": "golang", "node": "nodejs"} | debian).items():
        path = shutil.which(command)
        if path is not None:
            yield Finding(command, "ok", path)
        else:
            level = "bad" if command in debian or command == "mvn" else "warning"
            yield Finding(command, level, "not on PATH", f"apt-get install {package}")


def memory(mesh: Mesh) -> Iterator[Finding]:
    """Check that the components' maximum memory is available beside other processes."""
    wanted = sum(one.memory * mesh.replicas[name] for name, one in mesh.definitions.items())
    found = psutil.virtual_memory()
    running = processes.find(mesh.home.root)
    available = (found.available + sum(one.memory() for one in running.values())) >> 20
    what = f"{available} MiB for the mesh, which takes at most {wanted} MiB"
    do = "stop something else, or leave PROFILE=full, HA=1 and GATEWAYS=2 out"
    short = available < wanted
    yield Finding("memory", "warning" if short else "ok", what, do if short else "")


def disk(mesh: Mesh) -> Iterator[Finding]:
    """Check the free space for data and downloads."""
    for area, path in (("disk: data", mesh.home.root), ("disk: cache", cache_directory())):
        place = next(one for one in (path, *path.parents) if one.is_dir())
        free = shutil.disk_usage(place).free
        what = f"{free / GIB:.1f} GiB free at {path}"
        way = "XDG_CACHE_HOME" if "cache" in area else "COINMESH_HOME"
        do = f"free some, or set {way} to a roomier place" if free < MIN_DISK else ""
        yield Finding(area, "warning" if do else "ok", what, do)


def limits() -> Iterator[Finding]:
    """Check the limits of open files and memory maps."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    short = soft != resource.RLIM_INFINITY and soft < MIN_FILES
    do = f"ulimit -n {MIN_FILES} (the hard limit is {hard})" if short else ""
    yield Finding("open files", "bad" if short else "ok", f"limit {soft}", do)
    try:
        with open("/proc/sys/vm/max_map_count") as file:
            maps = int(file.read())
    except OSError:
        return
    do = f"sysctl -w vm.max_map_count={MIN_MAPS} (for much data)" if maps < MIN_MAPS else ""
    yield Finding("memory maps", "warning" if do else "ok", f"limit {maps}", do)


def clock() -> Finding:
    """Check that the clock is synchronized: event ages and certificates depend on it."""
    # struct timex begins with `modes`; zero only reads. 208 bytes on 64-bit Linux.
    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(256))
    if state == TIME_ERROR:
        do = "run chrony or systemd-timesyncd (in a virtual machine the host may keep it)"
        return Finding("clock", "warning", "the kernel doesn't know it as synchronized", do)
    return Finding("clock", "ok", "synchronized")


def taken_ports(mesh: Mesh) -> Iterator[Finding]:
    """Check for ports of stopped components that are in use."""
    running = set(processes.find(mesh.home.root))
    conflicts = 0
    for component in mesh.closure():
        for one in mesh.instances(component):
            if one.name in running:
                continue
            for name, number in one.ports.items():
                if not ports.is_free(number):
                    conflicts += 1
                    do = "stop it, or start with COINMESH_PORTS=free"
                    what = f"{number} ({one.name} {name}) is held by {ports.holder(number)}"
                    yield Finding("port", "bad", what, do)
    if not conflicts:
        yield Finding("ports", "ok", "none is taken by somebody else")
    if os.geteuid() == 0:
        yield Finding("user", "ok", "root: Debian packages are installed where they are missing")
