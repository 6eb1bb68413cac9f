"""Third-party components of the mesh: Python packages, jars, Go modules, with licences."""

from __future__ import annotations

import re
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree

from coinmesh_local.provision import maven

ROOT = Path(__file__).resolve().parents[1]
UNKNOWN = "not stated"
_JAR = re.compile(r"^(?P<name>.+?)-(?P<version>\d[\w.+-]*)\.jar$")
_KNOWN = tomllib.loads((Path(__file__).parent / "licences.toml").read_text())


@dataclass(frozen=True, order=True)
class Part:
    """One component; its ecosystem is a purl type, its licence is named as by its authors."""

    ecosystem: str
    group: str
    name: str
    version: str
    licence: str
    hashes: tuple[str, ...] = ()

    @property
    def purl(self) -> str:
        """Return its package URL."""
        path = "/".join(part for part in (self.group, self.name) if part)
        return f"pkg:{self.ecosystem}/{path}@{self.version}"


def python() -> Iterator[Part]:
    """Yield every package of the runtime's lock, with its pinned hashes."""
    text = (ROOT / "requirements" / "runtime.txt").read_text().replace("\\\n", " ")
    for line in text.splitlines():
        match = re.match(r"([A-Za-z0-9_.-]+)(?:\[[^]]*\])?==(\S+)", line)
        if match:
            hashes = tuple(re.findall(r"--hash=sha256:([0-9a-f]{64})", line))
            licence = _python_licence(match[1])
            yield Part("pypi", "", match[1].lower(), match[2], licence, hashes)


def _python_licence(name: str) -> str:
    if name in _KNOWN["python"]:
        return _KNOWN["python"][name]
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return UNKNOWN
    stated = about.get("License-Expression") or ""
    classifiers = [
        text.rpartition(" :: ")[2]
        for text in about.get_all("Classifier") or ()
        if text.startswith("License :: OSI")
    ]
    text = (about.get("License") or "").strip()
    return _short(stated or " OR ".join(classifiers) or text or UNKNOWN)


def java() -> Iterator[Part]:
    """Yield every jar downloaded by Maven, and those in Spark's wheel."""
    folders = [maven.directory(name) for name in maven.PACKAGES]
    folders += list((Path(metadata.distribution("pyspark").locate_file("pyspark"))).glob("jars"))
    found = {_jar(path) for folder in folders for path in folder.rglob("*.jar")}
    yield from sorted(part for part in found if part is not None)


def _jar(path: Path) -> Part | None:
    match = _JAR.match(path.name)
    if match is None:
        return None
    group, name, version, licence = "", match["name"], match["version"], ""
    with zipfile.ZipFile(path) as jar:
        names = jar.namelist()
        poms = [each for each in names if re.fullmatch(r"META-INF/maven/.+/pom\.xml", each)]
        for each in poms:
            of_group, artifact = each.split("/")[2:4]
            if artifact == name or name.endswith(f".{artifact}"):
                group, name = of_group, artifact
                licence = _pom_licence(jar.read(each))
        if not licence and "META-INF/MANIFEST.MF" in names:
            text = jar.read("META-INF/MANIFEST.MF").decode(errors="replace").replace("\r\n ", "")
            stated = re.search(r"^Bundle-License: *(.+?)\s*$", text, re.MULTILINE)
            licence = stated[1] if stated else ""
        if not licence:
            files = [
                n for n in names if re.match(r"(META-INF/)?LICENSE(\.\w+)?$", n, re.IGNORECASE)
            ]
            licence = _by_text(jar.read(files[0]).decode(errors="replace")) if files else ""
    if not licence:
        label = f"{group}:{name}"
        licence = next(
            (value for key, value in _KNOWN["java"].items() if re.search(key, label)), UNKNOWN
        )
    return Part("maven", group, name, version, _short(licence))


def _pom_licence(data: bytes) -> str:
    try:
        pom = ElementTree.fromstring(data)
    except ElementTree.ParseError:
        return ""
    space = pom.tag.partition("}")[0] + "}" if pom.tag.startswith("{") else ""
    names = [each.text or "" for each in pom.iterfind(f".//{space}license/{space}name")]
    return " OR ".join(name.strip() for name in names)


def _by_text(text: str) -> str:
    for marker, name in _KNOWN["texts"].items():
        if marker in text:
            return name
    return ""


def _short(text: str) -> str:
    line = " ".join(text.split())
    for pattern, name in _KNOWN["names"].items():
        if re.search(pattern, line, re.IGNORECASE):
            return name
    return line[:60]


def go() -> Iterator[Part]:
    """Yield every module that a tool built from Go is pinned to (go.sum)."""
    for path in sorted((ROOT / "deploy" / "local" / "provision").rglob("go.sum")):
        seen: set[tuple[str, str]] = set()
        for line in path.read_text().splitlines():
            module, version, _ = line.split()
            if not version.endswith("/go.mod") and (module, version) not in seen:
                seen.add((module, version))
                group, _, name = module.rpartition("/")
                licence = next(
                    (v for k, v in _KNOWN["go"].items() if re.search(k, module)), UNKNOWN
                )
                yield Part("golang", group, name, version, licence)


def everything() -> list[Part]:
    """Return all components, sorted, without duplicates."""
    return sorted({*python(), *java(), *go()})
