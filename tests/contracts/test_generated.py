"""The stubs fit the libraries that run them."""

import re
from importlib.resources import files
from pathlib import Path

import google.protobuf
import grpc
import pytest

STUBS = sorted(Path(str(files("coinmesh_contracts"))).glob("*/v1/*_pb2*.py"))


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


@pytest.mark.parametrize(
    ("suffix", "marker", "runtime"),
    [
        ("_pb2.py", r"# Protobuf Python Version: ([0-9.]+)", google.protobuf.__version__),
        ("_pb2_grpc.py", r"GRPC_GENERATED_VERSION = '([0-9.]+)'", grpc.__version__),
    ],
)
def test_no_stub_is_newer_than_its_runtime(suffix: str, marker: str, runtime: str) -> None:
    stubs = [path for path in STUBS if path.name.endswith(suffix)]
    assert stubs
    for path in stubs:
        found = re.search(marker, path.read_text())
        assert found, path.name
        assert version(found[1]) <= version(runtime), path.name


def test_every_contract_has_its_stubs() -> None:
    root = Path(str(files("coinmesh_contracts")))
    contracts = {
        path.relative_to(root / "proto" / "coinmesh").with_suffix("")
        for path in (root / "proto").rglob("*.proto")
    }
    generated = {
        path.relative_to(root).with_name(path.name.removesuffix("_pb2.py"))
        for path in STUBS
        if path.name.endswith("_pb2.py")
    }
    assert generated == contracts
    assert contracts
