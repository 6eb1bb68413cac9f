"""What may and may not stand in a file of the repository."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

Tracked = Callable[..., list[Path]]

# Spelled apart, so that this file doesn't name them itself.
REGISTRIES = re.compile(
    "|".join(
        re.escape(host)
        for host in (
            "pypi" + ".org",
            "files.python" + "hosted.org",
            "registry.npm" + "js.org",
            "repo1.maven" + ".org",
            "repo.maven" + ".apache.org",
            "proxy" + ".golang.org",
            "sum" + ".golang.org",
            "crates" + ".io",
        )
    )
    + r"|https?://[\w.-]*(?:artifactory|nexus)[\w.-]*/"
)
# A home or a checkout of somebody's machine; system paths such as /usr/lib/jvm are meant.
MACHINE_PATH = re.compile(r"(?<![\w./$}])/(?:home|root|Users|work)/[\w.-]+")
SECRET = re.compile(
    r"^\s*-----BEGIN [A-Z ]*PRIVATE KEY-----\s*$|AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36}"
)
GENERATED = re.compile(r"_pb2(_grpc)?\.pyi?$|\.(pyc|class|jar|so|zip|tar|tgz|whl|log)$")
# The accepted contracts are compared with, so they are data of the repository.
DATA = re.compile(r"\.(binpb|gz|parquet|png|svg|jpg)$")
LONGEST_MODULE = 400
LONGEST_TEST = 400
#: A `main.py` is wiring; commands and arguments are in modules beside it.
LONGEST_MAIN = 60


def texts(paths: list[Path]) -> dict[Path, str]:
    return {path: path.read_text(encoding="utf-8") for path in paths if not DATA.search(path.name)}


def found(pattern: re.Pattern[str], paths: list[Path]) -> list[str]:
    return [
        f"{path}:{number}: {line.strip()[:120]}"
        for path, text in texts(paths).items()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


@pytest.mark.parametrize("pattern", [REGISTRIES, MACHINE_PATH, SECRET], ids=lambda p: p.pattern[:9])
def test_no_file_names_a_registry_a_machine_or_a_secret(
    tracked: Tracked, pattern: re.Pattern[str]
) -> None:
    assert found(pattern, tracked()) == []


def test_nothing_generated_or_downloaded_is_tracked(tracked: Tracked) -> None:
    assert [str(path) for path in tracked() if GENERATED.search(path.name)] == []


def test_no_work_is_left_for_later(tracked: Tracked) -> None:
    marks = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")) + r")\b")
    assert found(marks, tracked("*.py", "*.proto", "*.toml", "*.sh", "Makefile")) == []


def test_modules_are_short(tracked: Tracked) -> None:
    lengths = {str(path): text.count("\n") for path, text in texts(tracked("*.py")).items()}
    tests = {path: n for path, n in lengths.items() if "/tests/" in path}
    assert {path: n for path, n in tests.items() if n > LONGEST_TEST} == {}
    modules = {path: n for path, n in lengths.items() if path not in tests}
    assert {path: n for path, n in modules.items() if n > LONGEST_MODULE} == {}
    mains = {p: n for p, n in modules.items() if "/src/" in p and p.endswith("main.py")}
    assert {path: n for path, n in mains.items() if n > LONGEST_MAIN} == {}


def test_contributing_states_the_limits(root: Path) -> None:
    text = (root / "CONTRIBUTING.md").read_text()
    assert f"It has at most {LONGEST_MAIN} lines" in text
    assert f"Modules have at most {LONGEST_MODULE} lines" in text


def test_modules_are_named_for_what_they_hold(tracked: Tracked) -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
    assert [str(path) for path in tracked("*.py") if path.stem in vague] == []


def test_modules_say_what_they_are(tracked: Tracked) -> None:
    assert [
        str(path)
        for path, text in texts(tracked("*/src/*.py")).items()
        if text.strip() and not text.lstrip().startswith(('"""', "# ruff:"))
    ] == []


def test_locks_pin_every_package_by_hash(root: Path) -> None:
    for lock in sorted((root / "requirements").glob("*.txt")):
        text = lock.read_text().replace("\\\n", " ")
        pins = [line for line in text.splitlines() if line.strip() and line[0] not in "# -"]
        assert pins, lock.name
        loose = [line for line in pins if "==" not in line or "--hash=sha256:" not in line]
        assert not loose, f"{lock.name}: {loose[:3]}"
        assert not re.search(r"https?://", text), f"{lock.name} names a host"


def test_everything_asked_for_is_locked(root: Path) -> None:
    for source in sorted((root / "requirements").glob("*.in")):
        locks = (
            source.with_suffix(".txt").read_text() + (root / "requirements/runtime.txt").read_text()
        )
        pinned = {line.partition("==")[0].partition("[")[0] for line in locks.splitlines()}
        for line in source.read_text().splitlines():
            name = re.match(r"[A-Za-z0-9_.-]+", line)
            if name and not line.startswith("-"):
                normal = re.sub(r"[-_.]+", "-", name[0]).lower()
                assert normal in pinned, f"{source.name}: {name[0]} is not locked; run make lock"
