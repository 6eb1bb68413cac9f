"""The documentation holds together."""

import re
from collections.abc import Callable
from pathlib import Path

from typer.main import get_command

from coinmesh_cli.main import app
from coinmesh_manifests.discovery import discover

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)


def anchors(text: str) -> set[str]:
    """GitHub's anchors of a page's headings."""
    headings = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere(tracked: Callable[..., list[Path]]) -> None:
    pages = {path: path.read_text() for path in tracked("*.md")}
    broken = []
    for page, text in pages.items():
        for match in LINK.finditer(CODE.sub("", text)):
            target, _, anchor = (match[1] or match[2]).partition("#")
            if target.startswith(("http://", "https://", "mailto:")):
                continue
            path = (page.parent / target).resolve() if target else page
            known = path.exists() and (
                not anchor or path not in pages or anchor in anchors(pages[path])
            )
            if not known:
                broken.append(f"{page}: {match[0]}")
    assert broken == []


def test_every_decision_is_listed_and_says_why(root: Path) -> None:
    folder = root / "docs" / "decisions"
    index = (folder / "README.md").read_text()
    for page in folder.glob("*.md"):
        if page.name != "README.md":
            assert page.name in index, f"{page.name} is not in the list"
            assert page.read_text().startswith("# ")


def test_the_architecture_names_every_directory(
    root: Path, tracked: Callable[..., list[Path]]
) -> None:
    text = (root / "docs" / "architecture.md").read_text()
    # A service or job declares its kind in its manifest.
    packages = {
        path.parent.relative_to(root)
        for path in tracked("*/pyproject.toml")
        if path.parent.parent.name not in ("services", "jobs")
    }
    tops = {path.relative_to(root).parts[0] for path in tracked() if path.parent != root}
    hidden = {top for top in tops if top.startswith(".")}
    for directory in sorted({*map(str, packages), *tops} - hidden):
        assert f"{directory}/" in text, f"docs/architecture.md doesn't name {directory}/"


def test_readme_names_every_service_api_and_command(root: Path) -> None:
    """Examples that list what there is stay complete."""
    text = (root / "README.md").read_text()
    gateway = discover()["query-gateway"]
    assert [api for api in gateway.serves if f"\n{api}\n" not in text] == []
    operator = text[text.index("lists the operator's commands") :].partition("\n\n")[0]
    commands = set(get_command(app).commands) - {"up", "down", "reset"}  # those of make
    assert sorted(name for name in commands if not re.search(rf"`{name}\b", operator)) == []
