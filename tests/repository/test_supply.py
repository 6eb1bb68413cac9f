"""The bill of materials and the table of licences say what the locks say."""

import json
import sys
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "supply"))

import inventory  # noqa: E402
import sbom  # noqa: E402


@pytest.fixture(scope="module")
def parts() -> list[inventory.Part]:
    """What is known without the jars, which a fresh checkout doesn't have."""
    return sorted({*inventory.python(), *inventory.go()})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*dependency graph:UserWarning")
def test_the_bill_is_valid_and_names_every_pinned_package(parts: list[inventory.Part]) -> None:
    text = sbom.bom(parts)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    components = {each["purl"]: each for each in json.loads(text)["components"]}
    lock = (ROOT / "requirements" / "runtime.txt").read_text()
    pins = [line.split()[0] for line in lock.splitlines() if "==" in line and line[0] not in " #"]
    assert len(pins) > 50
    for pin in pins:
        name, _, version = pin.partition("==")
        found = components[f"pkg:pypi/{name.partition('[')[0].lower()}@{version}"]
        assert all(f"sha256:{each['content']}" in lock for each in found["hashes"])


def test_a_bill_with_a_wrong_part_is_refused(parts: list[inventory.Part]) -> None:
    broken = json.loads(sbom.bom(parts[:1])) | {"components": [{"name": "no type"}]}
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(broken)) is not None


def test_the_table_of_licences_is_of_these_locks(parts: list[inventory.Part]) -> None:
    page = (ROOT / "docs" / "licences.md").read_text()
    missing = []
    for part in parts:
        name = "/".join(filter(None, (part.group, part.name)))
        if f"{name} {part.version}" not in page:
            missing.append(f"{name} {part.version}")
    assert missing == [], "run `make licences`"


def test_a_jar_tells_its_coordinates_and_licence(tmp_path: Path) -> None:
    import zipfile

    path = tmp_path / "thing-1.2.jar"
    with zipfile.ZipFile(path, "w") as jar:
        pom = "<project><licenses><license><name>MIT License</name></license></licenses></project>"
        jar.writestr("META-INF/maven/org.example/thing/pom.xml", pom)
    assert inventory._jar(path) == inventory.Part("maven", "org.example", "thing", "1.2", "MIT")
