"""The generated tables of markdown pages."""

import re
from pathlib import Path

import pytest

from coinmesh_access import readme, readme_tables, s3_identities
from coinmesh_access.table import AccessError, load
from coinmesh_manifests.discovery import CHECKOUT, discover

TABLE = load()
PAGES = sorted(
    path for place in ("*.md", "*/*.md", "*/*/README.md") for path in CHECKOUT.glob(place)
)


def test_every_generated_table_is_up_to_date() -> None:
    stale = [
        f"{page}: run `coinmesh-access readme {page}`"
        for page in PAGES
        if readme.filled(TABLE, page, page.read_text()) != page.read_text()
    ]
    assert stale == []


def test_every_service_quotes_its_grants() -> None:
    """The README of a service or job has the markers of its manifest's name."""
    without = [
        f"{readme_path} lacks <!-- access:begin {name} -->"
        for name, manifest in discover().items()
        if manifest.kind not in ("simulator", "web")
        for readme_path in [manifest.path.parent / "README.md"]
        if name not in readme.quoted(readme_path.read_text())
    ]
    assert without == []


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md"])
def test_overviews_list_every_service(page: str) -> None:
    text = (CHECKOUT / page).read_text()
    assert [name for name in discover() if f"| [{name}](" not in text] == []


def test_a_stale_row_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "a.toml").write_text("ports = {http = 1}\nfull.ports = {metrics = 2}")
    stale = (
        "<!-- ports:begin parts -->\n| a | http | 1 |\n| gone | http | 3 |\n<!-- ports:end -->\n"
    )
    page.write_text(stale)
    assert readme.update(TABLE, page)
    assert page.read_text() == (
        "<!-- ports:begin parts -->\n| component | listener | port |\n| --- | --- | --- |\n"
        "| a | http | 1 |\n| a | metrics | 2 |\n<!-- ports:end -->\n"
    )


def test_ports_of_no_component_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(AccessError, match="has no component files"):
        readme_tables.ports(tmp_path)


def test_services_are_linked_as_seen_from_the_page(tmp_path: Path) -> None:
    service = tmp_path / "services" / "a"
    service.mkdir(parents=True)
    (service / "service.toml").write_text('kind = "service"\ndescription = "Serves a"')
    (service / "README.md").touch()
    rows = readme_tables.services(tmp_path / "docs" / "page.md", tmp_path).splitlines()
    assert rows[2:] == ["| [a](../services/a/README.md) | service | Serves a |"]


def test_a_readme_names_the_places_in_s3_that_are_granted() -> None:
    for name in TABLE.services:
        actions = s3_identities.actions(TABLE, name)
        granted = {place for action in actions if (place := action.partition(":")[2])}
        rows = re.findall(
            r"^\| S3 (?:read|written) \| (.*) \|$", readme.markdown(TABLE, name), re.M
        )
        assert {place for row in rows for place in re.findall("`([^`]+)`", row)} == granted


def test_filling_a_readme_twice_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("# A\n<!-- access:begin envoy -->\n<!-- access:end -->\nmore\n")
    assert readme.update(TABLE, path)
    assert not readme.update(TABLE, path)
    assert readme.quoted(path.read_text()) == {"envoy": readme.markdown(TABLE, "envoy")}


def test_a_readme_without_markers_is_told(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("# A\n")
    with pytest.raises(AccessError, match="access:begin"):
        readme.update(TABLE, path)
