"""Files that are replaced in one step."""

from pathlib import Path

import pytest

from meshkit.files import write_atomically


def test_write_replaces_content_and_mode(tmp_path: Path):
    path = tmp_path / "new" / "file"
    write_atomically(path, "old", 0o644)
    write_atomically(path, b"new")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o600)
    assert list(path.parent.iterdir()) == [path]


def test_write_that_fails_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "file"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
