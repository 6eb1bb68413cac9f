"""The packages of the tree and what they may import."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What has a lock of its own has an environment of its own as well.
PACKAGES = sorted(
    str(path.parent.relative_to(ROOT))
    for place in ("*/pyproject.toml", "*/*/pyproject.toml")
    for path in ROOT.glob(place)
    if not (path.parent / "requirements.txt").is_file()
)
# What a service may import of ours.
SHARED = {
    "coinmesh_archive",
    "coinmesh_audit",
    "coinmesh_contracts",
    "coinmesh_sources",
    "meshkit",
}


def imported(path: Path) -> set[str]:
    """The top-level names that a module imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def package_of(folder: str) -> str:
    """The import package of a folder."""
    (source,) = (
        path
        for path in (ROOT / folder / "src").iterdir()
        if path.suffix != ".egg-info" and not path.name.startswith("__")
    )
    return source.name


def test_make_installs_every_package(tracked: Callable[..., list[Path]]) -> None:
    projects = {str(path.parent.relative_to(ROOT)) for path in tracked("*/pyproject.toml")}
    show = ["make", "-s", "--eval", "shown: ; @echo $(PACKAGES)", "shown"]
    made = subprocess.run(show, cwd=ROOT, capture_output=True, text=True, check=True)
    assert projects == set(PACKAGES) == set(made.stdout.split())


@pytest.mark.parametrize("folder", PACKAGES)
def test_a_package_has_its_parts(folder: str) -> None:
    project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11"
    if folder.startswith("libs/"):
        assert (ROOT / folder / "src" / package_of(folder) / "py.typed").is_file()
    assert any((ROOT / folder / "tests").glob("test_*.py")), "no tests"
    readme = (ROOT / folder / "README.md").read_text()
    assert readme.startswith("# ")
    assert len(readme.splitlines()) >= 5, "the README says too little"


@pytest.mark.parametrize("folder", [f for f in PACKAGES if f.startswith("libs/")])
def test_a_librarys_readme_names_every_module(folder: str) -> None:
    readme = (ROOT / folder / "README.md").read_text()
    modules = (ROOT / folder / "src" / package_of(folder)).glob("*.py")
    names = {path.stem for path in modules if path.stem != "__init__"}
    assert sorted(name for name in names if f"`{name}`" not in readme) == []


@pytest.mark.parametrize("folder", PACKAGES)
def test_tests_folders_are_no_packages(folder: str) -> None:
    assert not list((ROOT / folder / "tests").rglob("__init__.py"))


@pytest.mark.parametrize("folder", [f for f in PACKAGES if f.startswith("services/")])
def test_services_share_contracts_and_the_chassis_only(folder: str) -> None:
    own = package_of(folder)
    ours = {package_of(other) for other in PACKAGES} - SHARED - {own}
    for path in (ROOT / folder / "src").rglob("*.py"):
        assert not imported(path) & ours, path


@pytest.mark.parametrize("folder", [f for f in PACKAGES if f.startswith("libs/")])
def test_libraries_know_nothing_of_what_stands_on_them(folder: str) -> None:
    ours = {package_of(other) for other in PACKAGES} - SHARED
    for path in (ROOT / folder / "src").rglob("*.py"):
        if "_pb2" not in path.name:
            assert not imported(path) & ours, path


@pytest.mark.parametrize("folder", PACKAGES)
def test_what_is_imported_of_ours_is_declared(folder: str) -> None:
    distribution = {
        package_of(other): tomllib.loads((ROOT / other / "pyproject.toml").read_text())["project"][
            "name"
        ]
        for other in PACKAGES
    }
    project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[<>=\[ ]", text, maxsplit=1)[0] for text in project["dependencies"]}
    own = package_of(folder)
    for path in (ROOT / folder / "src").rglob("*.py"):
        needed = {distribution[name] for name in imported(path) & set(distribution) - {own}}
        assert needed <= declared, f"{path} needs {needed - declared}"
