"""The scanner of `make check` finds secrets that somebody leaves in the tree."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOOK = Path(sys.executable).parent / "detect-secrets-hook"


def scan(*paths: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([HOOK, *paths], capture_output=True, text=True, check=False)


# Put together here, so that this file holds none.
PLANTED = {
    "aws": "key = '" + "AKIA" + "QX7ZTRW4LMNB2K9D" + "'",
    "github": "push with " + "ghp_" + "a9Zk3LmQ8xT1" + "vB6nW4yR7cJ2" + "dF5hG0sPqEuI",
    "private key": "-----BEGIN " + "EC PRIVATE KEY-----\nMHcCAQEE\n",
    "jwt": "token: " + "eyJhbGciOiJFUzI1NiJ9" + ".eyJzdWIiOiJhbm4ifQ" + "." + "c2lnbmF0dXJlLXNpZw",
    "assignment": "pass" + "word" + " = 'Tr0ub4dor-and-3'",
    "url": "amqp://mesh:" + "Tr0ub4dor3@broker:5672",
    "entropy": "seal = '" + "q8Zt1LxN4vWc" + "7RbY0mKd5HsJ" + "2GfP9aTe6UiQ+/oX" + "'",
}


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What one scan reports of a file with each kind of secret and of one without any."""
    folder = tmp_path_factory.mktemp("planted")
    for kind, text in PLANTED.items():
        (folder / f"{kind}.py").write_text(f"name = 'mesh'\n{text}\n")
    ordinary = folder / "ordinary.py"
    ordinary.write_text("instrument = 'binance.BTC-USDT'\nport = 18080\n")
    result = scan(*folder.iterdir())
    assert result.returncode == 1, result.stdout
    return result.stdout


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_secret_is_found(reported: str, kind: str) -> None:
    assert re.search(rf"/{kind}\.py:2\b", reported)


def test_ordinary_text_is_let_through(reported: str) -> None:
    assert "ordinary.py" not in reported


def test_the_check_looks_at_every_file() -> None:
    recipe = (ROOT / "Makefile").read_text().partition("\ncheck-secrets:")[2].partition("\n\n")[0]
    assert "detect-secrets-hook" in recipe
    assert "--others --exclude-standard" in recipe
    assert re.findall(r"':!([^']+)'", recipe) == ["requirements/*.txt", "*.binpb"]
