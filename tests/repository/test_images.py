"""The images: linted, built from the lock, and run by nobody in particular."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVICES = sorted(
    str(path.parent.relative_to(ROOT))
    for place in ("services/*/pyproject.toml", "jobs/*/pyproject.toml")
    for path in ROOT.glob(place)
)
UV = re.search(r"^UV_VERSION := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest) -> Path:
    """A folder that becomes an image."""
    return ROOT / request.param


#: The libraries of the tree that a service may declare, by name, and their directories.
LIBRARIES = {
    tomllib.loads(path.read_text())["project"]["name"]: str(path.parent.relative_to(ROOT))
    for path in sorted(ROOT.glob("libs/*/pyproject.toml"))
}


def instructions(service: Path) -> list[tuple[str, str]]:
    """Instruction and arguments of each step of a service's Dockerfile."""
    text = re.sub(r"\\\n", " ", (service / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def test_hadolint_finds_nothing(service: Path) -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run(
        [hadolint, "--no-color", service / "Dockerfile"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_what_is_copied_is_there_and_in_the_build_context(service: Path) -> None:
    admitted = (ROOT / ".dockerignore").read_text().splitlines()
    kept = tuple(line[1:] for line in admitted if line.startswith("!"))
    for word, rest in instructions(service):
        if word == "COPY" and not rest.startswith("--from"):
            *sources, _ = rest.split()
            for source in sources:
                assert (ROOT / source).exists()
                assert source.startswith(kept)


def test_packages_come_from_the_lock_alone(service: Path) -> None:
    steps = [rest for word, rest in instructions(service) if word == "RUN" and "pip" in rest]
    assert [step for step in steps if f"uv=={UV} " in step] == steps[:1]
    (install,) = steps[1:]
    assert "--constraints requirements/runtime.txt" in install
    assert "--build-constraints requirements/runtime.txt" in install
    declared = (service / "pyproject.toml").read_text()
    libraries = {folder for name, folder in LIBRARIES.items() if f'"{name}"' in declared}
    *_, installed = install.split("runtime.txt ")
    *first, last = [word for word in installed.split() if not word.startswith("-")]
    assert (set(first), last) == (libraries, str(service.relative_to(ROOT)))


def test_the_last_stage_runs_the_services_command_as_a_plain_user(service: Path) -> None:
    steps = instructions(service)
    last = steps[max(at for at, (word, _) in enumerate(steps) if word == "FROM") :]
    assert ("USER", "10001:10001") in last
    (command,) = (rest for word, rest in last if word == "ENTRYPOINT")
    project = tomllib.loads((service / "pyproject.toml").read_text())["project"]
    assert command == f'["{next(iter(project["scripts"]))}"]'
