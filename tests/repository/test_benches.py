"""Benches run with what the running mesh and `make bench` install; they import no tests."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "bench").rglob("*.py"))
README = (ROOT / "bench/README.md").read_text()
COMMANDS = sorted(set(re.findall(r"^\.venv/bin/python (bench/\S+\.py)", README, re.M)))
TEST_TOOLS = {"conftest", "hypothesis", "pytest", "pytest_asyncio", "tests"}


def imports(tree: ast.AST) -> set[str]:
    """The first part of every imported name."""
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_bench_imports_no_test_code(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not imports(tree) & TEST_TOOLS
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    # A tests folder would have to be added to sys.path.
    folders = [text for text in texts if isinstance(text, str) and "tests" in text.split("/")]
    assert not folders


@pytest.fixture(scope="module")
def helps() -> dict[str, tuple[int, str]]:
    """Exit status and output of `--help` of every command.

    One process runs all of them: a bench takes seconds to import what the others import too.
    """
    script = f"""
import contextlib, io, json, pathlib, runpy, sys
sys.modules.update(dict.fromkeys({sorted(TEST_TOOLS)}))
helps = {{}}
for command in {COMMANDS}:
    folder = str(pathlib.Path(command).parent)
    sys.argv, sys.path[0], status = [command, "--help"], folder, 0
    with contextlib.redirect_stdout(io.StringIO()) as output:
        try:
            runpy.run_path(command, run_name="__main__")
        except SystemExit as error:
            status = error.code or 0
    helps[command] = status, output.getvalue()
    local = pathlib.Path(folder).absolute()
    for name, module in list(sys.modules.items()):
        if pathlib.Path(getattr(module, "__file__", None) or "/").parent == local:
            del sys.modules[name]
print(json.dumps(helps))
"""
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_bench_prints_help_without_test_tools(
    helps: dict[str, tuple[int, str]], command: str
) -> None:
    status, output = helps[command]
    assert status == 0
    assert output.startswith("usage: ")
