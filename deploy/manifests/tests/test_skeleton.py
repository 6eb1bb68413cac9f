"""`make service`: what it writes is a whole service, and nothing that is there is touched."""

import shutil
from pathlib import Path

import pytest

from coinmesh_manifests import ports
from coinmesh_manifests.discovery import CHECKOUT, discover
from coinmesh_manifests.skeleton import PLACE, Kind, SkeletonError, generate


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    shutil.copy(CHECKOUT / "Makefile", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "place", "parts"),
    [
        ("service", "services/price-alerts", {"service.toml", "README.md", "Dockerfile"}),
        ("collector", "services/price-alerts", {"service.toml", "README.md", "Dockerfile"}),
        ("job", "jobs/price-alerts", {"job.toml", "README.md", "Dockerfile"}),
    ],
)
def test_each_kind_has_its_parts(tree: Path, kind: Kind, place: str, parts: set[str]) -> None:
    written = generate(tree, "price-alerts", kind, "Sends alerts")
    folder = tree / place
    assert parts <= {path.name for path in written}
    assert (folder / "src" / "price_alerts" / "main.py").is_file()
    assert list((folder / "tests").glob("test_*.py"))
    assert not [path for path in written if PLACE.search(path.read_text()) or "@" in str(path)]
    assert (tree / "proto").exists() == (kind == "service")
    manifest = discover(tree)["price-alerts"]
    assert (manifest.kind, manifest.description) == (kind, "Sends alerts")
    assert (
        len((folder / f"{'job' if kind == 'job' else 'service'}.toml").read_text().split("\n")) < 7
    )


@pytest.mark.parametrize("name", ["Alerts", "a_b", "1a", "a--b", "", "../a"])
def test_a_name_that_cannot_be_one_is_rejected(tree: Path, name: str) -> None:
    with pytest.raises(SkeletonError, match="lower-case words"):
        generate(tree, name, "service")


def test_a_name_that_is_taken_is_rejected(tree: Path) -> None:
    generate(tree, "a", "service")
    with pytest.raises(SkeletonError, match="a is there already"):
        generate(tree, "a", "job")


def test_two_names_that_lead_to_one_port_get_different_ones(tree: Path) -> None:
    generate(tree, "collector-x", "collector")
    first = discover(tree)["collector-x"]
    taken = ports.of(first)
    second = ports.settled("collector-x", "collector", [first])
    assert set(second) == set(taken)
    assert set(second.values()).isdisjoint(taken.values())
