"""`make sbom`: the bill of materials as CycloneDX JSON. `make licences`: the table of licences."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from inventory import ROOT, Part, everything
from packageurl import PackageURL

TITLES = {"pypi": "Python", "maven": "Java", "golang": "Go"}


def bom(parts: Iterable[Part]) -> str:
    """Return the bill of materials."""
    made = Bom()
    made.metadata.component = Component(name="coinmesh", type=ComponentType.APPLICATION)
    for part in parts:
        made.components.add(
            Component(
                name=part.name,
                group=part.group or None,
                version=part.version,
                type=ComponentType.LIBRARY,
                bom_ref=part.purl,
                purl=PackageURL.from_string(part.purl),
                licenses=[DisjunctiveLicense(name=part.licence)],
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=h) for h in part.hashes],
            )
        )
    return JsonV1Dot6(made).output_as_string(indent=2)


def table(parts: Iterable[Part]) -> str:
    """Return the page docs/licences.md."""
    grouped: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for part in parts:
        label = f"{part.group}:{part.name}" if part.ecosystem == "maven" and part.group else ""
        name = label or "/".join(filter(None, (part.group, part.name)))
        grouped[part.ecosystem][part.licence].append(f"{name} {part.version}")
    lines = [
        "# Licences of what the mesh is made of",
        "",
        "Made by `make licences` from the locks, the jars that Maven brings and Spark's wheel",
        "holds, and the modules that Go tools are pinned to. There is no npm package.",
    ]
    for ecosystem, licences in grouped.items():
        lines += ["", f"## {TITLES[ecosystem]}", "", "| licence | packages |", "| --- | --- |"]
        for licence, names in sorted(licences.items()):
            shown = licence.replace("|", "/")
            lines.append(f"| {shown} | {', '.join(dict.fromkeys(sorted(names)))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the requested file."""
    parts = everything()
    if sys.argv[1:] == ["licences"]:
        path, text = ROOT / "docs" / "licences.md", table(parts)
    else:
        path, text = ROOT / ".coinmesh" / "build" / "sbom.cdx.json", bom(parts)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
    sys.stdout.write(f"{path.relative_to(ROOT)}: {len(parts)} components\n")


if __name__ == "__main__":
    main()
