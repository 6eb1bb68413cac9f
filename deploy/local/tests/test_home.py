"""The state directory: who may read it, and what is never taken for one."""

import os
import stat
from pathlib import Path

import pytest

from coinmesh_local import operations
from coinmesh_local.paths import Home


def test_create_with_open_umask_closes_directories(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    before = os.umask(0)
    try:
        home.create()
    finally:
        os.umask(before)
    for directory in (home.root, home.data, home.logs, home.run, home.secrets, home.tls):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700, directory


def test_create_of_open_home_closes_it(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.create()
    home.data.chmod(0o755)
    home.create()
    assert stat.S_IMODE(home.data.stat().st_mode) == 0o700


def test_create_in_directory_with_other_files_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    mode = tmp_path.stat().st_mode
    with pytest.raises(FileExistsError, match="no state directory of Coinmesh"):
        Home(tmp_path).create()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert tmp_path.stat().st_mode == mode


def test_reset_without_marker_deletes_nothing(tmp_path: Path) -> None:
    thesis = tmp_path / "data" / "thesis.tex"
    thesis.parent.mkdir()
    thesis.touch()
    with pytest.raises(FileNotFoundError, match="nothing was deleted"):
        operations.reset(Home(tmp_path))
    assert thesis.exists()


def test_reset_of_home_deletes_its_state(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    (home.data / "records").touch()
    operations.reset(home)
    assert list(home.root.iterdir()) == []
    operations.reset(home)


def test_reset_of_home_from_before_the_marker_deletes_its_state(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    home.write_json("mesh.json", {})
    (home.root / ".coinmesh-home").unlink()
    operations.reset(home)
    assert list(home.root.iterdir()) == []
