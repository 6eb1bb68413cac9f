"""What is implemented once is implemented nowhere else; exceptions are listed with their reason."""

import ast
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

Tracked = Callable[..., list[Path]]


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Each call, with the expression that is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def makes_tls_context(tree: ast.AST) -> bool:
    """`ssl.create_default_context(…)` or `ssl.SSLContext(…)`."""
    names = {"ssl.create_default_context", "create_default_context", "ssl.SSLContext", "SSLContext"}
    return any(name in names for name, _ in calls(tree))


def replaces_files(tree: ast.AST) -> bool:
    """`os.replace(…)`, `os.rename(…)` or `Path.replace` and `rename`, which take one argument."""
    for name, call in calls(tree):
        owner, _, method = name.rpartition(".")
        if name in ("os.replace", "os.rename", "shutil.move"):
            return True
        values = [arg for arg in call.args if not isinstance(arg, ast.Starred)]
        is_path = len(call.args) == len(values) == 1 and not call.keywords
        if method in ("replace", "rename") and is_path and owner and not owner.endswith("structs"):
            return True
    return False


def speaks_to_the_registry(tree: ast.AST) -> bool:
    """A client of the schema registry: of a library, or a class of its own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and "schema_registry" in (node.module or ""):
            return True
        if isinstance(node, ast.Import) and any("schema_registry" in n.name for n in node.names):
            return True
        if isinstance(node, ast.ClassDef) and node.name.endswith("RegistryClient"):
            return True
    return False


#: What is looked for; the one module that has it, and the exceptions.
RULES: Mapping[Callable[[ast.AST], bool], Mapping[str, str]] = {
    makes_tls_context: {
        "libs/meshkit/src/meshkit/tls.py": "the factories",
        "deploy/local/src/coinmesh_local/listeners.py": "its probe trusts any certificate",
        "bench/collector/socket_peer.py": "the environment of the peer lacks meshkit",
        "bench/gateway/peer.py": "the peer is measured without the mesh's libraries",
    },
    replaces_files: {
        "libs/meshkit/src/meshkit/files.py": "write_atomically",
        "deploy/access/src/coinmesh_access/certificates.py": "a directory of several files",
        "deploy/access/src/coinmesh_access/listener_certificate.py": "a symbolic link",
        "deploy/local/src/coinmesh_local/kafka_storage.py": "a broker's formatted directory",
        "deploy/local/src/coinmesh_local/log_files.py": "moves a full log aside",
        "deploy/local/src/coinmesh_local/provision/cache.py": "a directory of an installation",
        "libs/sources/src/coinmesh_sources/replay.py": "files that grow during a replay",
    },
    speaks_to_the_registry: {
        "libs/meshkit/src/meshkit/registry_client.py": "the client",
    },
}


@pytest.mark.parametrize("matches", RULES, ids=lambda rule: rule.__name__)
def test_nothing_is_implemented_twice(
    root: Path, tracked: Tracked, matches: Callable[[ast.AST], bool]
) -> None:
    sources = [path for path in tracked("*.py") if "tests" not in path.relative_to(root).parts]
    found = {
        str(path.relative_to(root)) for path in sources if matches(ast.parse(path.read_text()))
    }
    assert found == set(RULES[matches]), "use the one that exists, or give the reason here"


@pytest.mark.parametrize(
    ("matches", "code"),
    [
        (makes_tls_context, "ssl.create_default_context(cafile=ca)"),
        (makes_tls_context, "context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)"),
        (replaces_files, "os.replace(a, b)"),
        (replaces_files, "(directory / 'draft').replace(path)"),
        (replaces_files, "draft.rename(path)"),
        (
            speaks_to_the_registry,
            "from confluent_kafka.schema_registry import SchemaRegistryClient",
        ),
        (speaks_to_the_registry, "class OtherRegistryClient: pass"),
    ],
)
def test_a_second_implementation_is_recognised(
    matches: Callable[[ast.AST], bool], code: str
) -> None:
    assert matches(ast.parse(code))
    assert not matches(ast.parse("text.replace('a', 'b'); dataclasses.replace(x, a=1)"))
