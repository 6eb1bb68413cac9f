"""Who an action is recorded for."""

import os
import pwd
from pathlib import Path

import pytest

from coinmesh_access import accounting


@pytest.fixture
def login_uid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for /proc/self/loginuid, which only PAM may set."""
    path = tmp_path / "loginuid"
    monkeypatch.setattr(accounting, "LOGIN_UID", path)
    return path


def test_operator_ignores_environment(login_uid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SUDO_USER", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody-else")
    expected = f"os:{pwd.getpwuid(os.getuid()).pw_name}"
    assert accounting.operator() == expected
    login_uid.write_text("4294967295")
    assert accounting.operator() == expected


def test_operator_behind_sudo_is_login_user(login_uid: Path) -> None:
    user = next(entry for entry in pwd.getpwall() if entry.pw_uid != os.getuid())
    login_uid.write_text(str(user.pw_uid))
    assert accounting.operator() == f"os:{user.pw_name}"


def test_operator_without_account_is_its_uid(login_uid: Path) -> None:
    login_uid.write_text("3999999999")
    assert accounting.operator() == "os:uid-3999999999"
