"""Generates the stubs of proto/ into coinmesh_contracts when the package is built.

Written beside the sources (git-ignored): `coinmesh_contracts/<api>/v1/*_pb2.py` with typed stubs,
`descriptors.binpb` (a FileDescriptorSet with imports, for Envoy and for reflection) and `proto/`
(the event contracts' text, which the deploy step registers).
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = Path(__file__).resolve().parent
PROTO = HERE.parents[1] / "proto"
TARGET = HERE / "src" / "coinmesh_contracts"
GOOGLEAPIS = HERE.parents[1] / ".coinmesh" / "build" / "googleapis"
GOOGLE_API = ("annotations", "client", "field_behavior", "http", "httpbody", "launch_stage")

# protoc names Python modules by the proto's path, "coinmesh.…", which is the client's package.
_IMPORT = re.compile(r"^((?:from|import) )coinmesh\.", re.MULTILINE)
_REFERENCE = re.compile(r"(?<![\w.'\"/])coinmesh\.(?=\w+\.v1\.)")


def generate() -> None:
    """Compiles every contract; raises RuntimeError with protoc's own words when one is wrong."""
    from grpc_tools import protoc  # absent when only the metadata is asked for

    sources = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    staging = TARGET / ".staging"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    includes = [
        f"-I{path}"
        for path in (PROTO, stage_googleapis(), Path(protoc.__file__).resolve().parent / "_proto")
    ]
    plugins = [
        f"--plugin=protoc-gen-{name}={Path(sys.executable).parent / f'protoc-gen-{name}'}"
        for name in ("mypy", "mypy_grpc")
    ]
    outputs = [
        f"--python_out={staging}",
        f"--grpc_python_out={staging}",
        f"--mypy_out=quiet:{staging}",
        f"--mypy_grpc_out=quiet:{staging}",
    ]
    descriptors = [f"--descriptor_set_out={staging / 'descriptors.binpb'}", "--include_imports"]
    # In the set so that Envoy can turn error details into JSON.
    details = ["google/rpc/error_details.proto", "google/rpc/status.proto"]
    for command in (
        ["protoc", *includes, *plugins, *outputs, *sources],
        ["protoc", *includes, *descriptors, *sources, *details],
    ):
        if protoc.main(command) != 0:
            raise RuntimeError("protoc refused proto/: see its message above")
    _publish(staging, sources)
    shutil.rmtree(staging)


def stage_googleapis() -> Path:
    """Copies the googleapis protos that the APIs import to where protoc and buf find them."""
    import google.api

    package = Path(next(iter(google.api.__path__))).parent
    shutil.rmtree(GOOGLEAPIS, ignore_errors=True)
    for source, name in {
        **{f"api/{stem}.proto": None for stem in GOOGLE_API},
        "rpc/code.proto": None,
        "rpc/error_details.proto": None,
        "rpc/status.proto": None,
        "longrunning/operations_proto.proto": "longrunning/operations.proto",
    }.items():
        destination = GOOGLEAPIS / "google" / (name or source)
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(package / source, destination)
    return GOOGLEAPIS


def _publish(staging: Path, sources: list[str]) -> None:
    for api in (staging / "coinmesh").iterdir():
        target = TARGET / api.name
        shutil.rmtree(target, ignore_errors=True)
        for path in sorted(api.rglob("*.py*")):
            text = _IMPORT.sub(r"\1coinmesh_contracts.", path.read_text())
            if path.suffix == ".pyi":
                text = _REFERENCE.sub("coinmesh_contracts.", text)
            destination = target / path.relative_to(api)
            destination.parent.mkdir(parents=True, exist_ok=True)
            (target / "__init__.py").touch()
            (destination.parent / "__init__.py").touch()
            destination.write_text(text)
    shutil.copyfile(staging / "descriptors.binpb", TARGET / "descriptors.binpb")
    texts = TARGET / "proto"
    shutil.rmtree(texts, ignore_errors=True)
    for source in sources:
        destination = texts / source
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PROTO / source, destination)


class GenerateStubs(BuildHookInterface[Any]):
    """Hatchling's hook."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Runs before each build, also the editable one."""
        del version, build_data
        generate()


if __name__ == "__main__":
    generate()
