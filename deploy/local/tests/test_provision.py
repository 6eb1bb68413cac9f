"""Provisioning: the cache survives interruptions, JDKs are found, the missing is named."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from coinmesh_local.definition import load
from coinmesh_local.paths import COMPONENTS, Home
from coinmesh_local.provision import (
    ProvisionError,
    cache,
    ensure,
    golang,
    java,
    maven,
    system,
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "coinmesh"


def jdk(home: Path, version: str) -> Path:
    """A directory that looks like a JDK."""
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "java").write_text("#!/bin/sh\n")
    (home / "bin" / "java").chmod(0o755)
    (home / "release").write_text(f'IMPLEMENTOR="x"\nJAVA_VERSION="{version}"\n')
    return home


def test_a_directory_appears_whole_or_not_at_all(own_cache: Path) -> None:
    target = own_cache / "thing-1"

    def interrupted(temporary: Path) -> None:
        (temporary / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.fill(target, interrupted)
    assert not target.exists()
    assert list((own_cache / "tmp").iterdir()) == []
    cache.fill(target, lambda temporary: (temporary / "all").touch())
    assert [path.name for path in target.iterdir()] == ["all"]
    cache.fill(target, interrupted)


def test_what_a_killed_run_left_is_cleared(own_cache: Path) -> None:
    left = own_cache / "tmp" / "thing-1.abc"
    left.mkdir(parents=True)
    cache.fill(own_cache / "thing-1", lambda temporary: (temporary / "all").touch())
    assert not left.exists()


FILL = """
import sys
from pathlib import Path
from coinmesh_local.provision import cache

def build(temporary: Path) -> None:
    with open(sys.argv[2], "a") as log:
        log.write("filled\\n")
    (temporary / "all").touch()

cache.fill(Path(sys.argv[1]), build)
"""


def test_concurrent_runs_fill_once(own_cache: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", FILL, str(own_cache / "thing-1"), str(log)]
    runs = [subprocess.Popen(command) for _ in range(4)]
    assert [run.wait() for run in runs] == [0, 0, 0, 0]
    assert log.read_text() == "filled\n"


@pytest.mark.parametrize(
    ("text", "expected"), [("17.0.12", 17), ("25", 25), ("21.0.1+12", 21), ("1.8.0_402", 8)]
)
def test_the_release_file_tells_the_version(tmp_path: Path, text: str, expected: int) -> None:
    assert java.version(jdk(tmp_path / "jdk", text)) == expected


def test_a_jdk_is_chosen_by_version_and_variables_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_HOME_11", str(jdk(tmp_path / "eleven", "11.0.2")))
    monkeypatch.setenv("JAVA_HOME_17", str(jdk(tmp_path / "seventeen", "17.0.9")))
    assert java.find(java.NEEDS["jdk17"]) == tmp_path / "seventeen"


def test_a_missing_jdk_is_named_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = jdk(tmp_path / "old", "11.0.2")
    monkeypatch.setattr(java, "candidates", lambda: [only])
    monkeypatch.setattr(system, "available", lambda package: False)
    with pytest.raises(ProvisionError, match=r"JDK 21 or newer; found: 11 .*JAVA_HOME_21.*Temurin"):
        java.ensure("jdk21", lambda _: None)


def test_a_missing_package_names_its_command_to_who_may_not_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ProvisionError, match=r"sudo apt-get install .*redis-server"):
        system.ensure("redis-server", lambda _: None)


def test_every_download_is_pinned_and_keyed_by_its_pom() -> None:
    names = [maven.directory(name).name for name in maven.PACKAGES]
    assert [name.rpartition("-")[0] for name in names] == [
        "kafka-4.3.1",
        "apicurio-3.3.3",
        "cassandra-5.0.9",
        "spark-jars-4.2.0",
        "jmx-exporter-1.0.1",
        "opensearch-2.19.4",
    ]


def test_a_program_is_built_from_its_pins(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.fullmatch(r"jaeger-v1\.76\.0-[0-9a-f]{8}", golang.directory("jaeger").name)
    tools = own_cache / "bin"
    tools.mkdir(parents=True)
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(ProvisionError, match=r"go is not on PATH.*install Go 1\.\d+"):
        golang.ensure("jaeger", print)
    assert not golang.directory("jaeger").exists()
    compiler = tools / "go"
    compiler.write_text(
        '#!/bin/sh\ncase " $* " in *" -mod=readonly "*) echo broken >&2; exit 1;; esac\n'
    )
    compiler.chmod(0o755)
    with pytest.raises(ProvisionError, match=r"(?s)could not build jaeger.*broken.*Way out"):
        golang.ensure("jaeger", print)
    assert not golang.directory("jaeger").exists()


#: Stands in for Go: lists two packages, then "compiles" them, leaving temporary files as one that
#: is stopped does.
COMPILER = """#!/bin/sh
if [ "$1" = list ]; then echo example/a; echo example/b; exit 0; fi
test -d "$GOTMPDIR" && test "$TMPDIR" = "$GOTMPDIR" || exit 9
echo "$GOTMPDIR" > {told}
test -z "$(ls "$GOTMPDIR")" || exit 8
mkdir "$GOTMPDIR/go-build1"
echo 'go: downloading example v1' >&2
echo example/a >&2
echo example/b >&2
if [ ! -e {again} ]; then touch {again}; kill -9 $$; fi
"""


def test_temporary_files_of_a_stopped_build_are_removed_at_the_next(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools, told = tmp_path / "bin", tmp_path / "told"
    tools.mkdir()
    (tools / "go").write_text(COMPILER.format(told=told, again=tmp_path / "again"))
    (tools / "go").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setattr(golang, "PACKAGES_PER_LINE", 1)
    with pytest.raises(ProvisionError):
        golang.ensure("jaeger", print)
    temporary = Path(told.read_text().strip())
    assert temporary.is_relative_to(own_cache)
    assert list(temporary.iterdir())
    lines: list[str] = []
    golang.ensure("jaeger", lines.append)
    assert not temporary.exists()
    assert lines[-1].endswith("2 of 2 packages")


def test_background_provisioning_has_the_lowest_priority(tmp_path: Path) -> None:
    tools, told = tmp_path / "bin", tmp_path / "told"
    tools.mkdir()
    (tools / "go").write_text(f"#!/bin/sh\nnice >> {told}; ionice -p $$ >> {told}; exit 1\n")
    (tools / "go").chmod(0o755)
    command = [sys.executable, "-m", "coinmesh_local.provision", "--in-background", "jaeger"]
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"}
    subprocess.run(command, env=environment, capture_output=True, check=False)
    assert told.read_text().splitlines()[:2] == ["19", "idle"]


def test_what_comes_later_is_built_in_the_background() -> None:
    for definition in load(COMPONENTS):
        if definition.later:
            assert definition.without, definition.name
            (command,) = definition.prepare
            assert "--in-background" in command


def test_a_program_with_a_part_of_ours_is_built_anew_when_that_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(golang.POMS / "ratelimit", tmp_path / "ratelimit")
    before = golang.directory("ratelimit")
    monkeypatch.setattr(golang, "POMS", tmp_path)
    assert golang.directory("ratelimit") == before
    for path in sorted((tmp_path / "ratelimit").rglob("*.go")):
        path.write_text(path.read_text() + "// changed\n")
        assert golang.directory("ratelimit") != before
        before = golang.directory("ratelimit")


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ProvisionError, match=r"file/coinmesh \(Not a directory.*XDG_CACHE_HOME"):
        ensure(["kafka"], lambda _: None)


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    home = Home(tmp_path / "file")
    assert home.read_json("mesh.json", {}) == {}
    with pytest.raises(PermissionError, match=r"file \(File exists\): set COINMESH_HOME"):
        home.create()
