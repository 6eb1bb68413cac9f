"""The object store holds to the access table: each service to its prefixes."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from coinmesh_access import (
    credentials,
    s3_identities,
    table,
)
from coinmesh_local.paths import BIN
from coinmesh_local.testing import eventually

pytestmark = pytest.mark.component
TABLE = table.load()
Start = Callable[..., subprocess.Popen[bytes]]
Configured = Callable[[str], dict[str, Any]]


def test_s3_keeps_each_service_to_its_prefixes(bao: Any, tmp_path: Path, process: Start) -> None:
    keys = credentials.s3_keys(bao.service("deploy"), TABLE)
    configuration = tmp_path / "s3.json"
    configuration.write_text(json.dumps(s3_identities.identities(TABLE, keys)))
    ports = {name: bao.free_port() for name in ("s3", "master", "volume", "filer")}
    grpc = [f"-{name}.port.grpc={bao.free_port()}" for name in ports]
    data = tmp_path / "data"
    data.mkdir()
    process(
        *(
            BIN / "weed",
            "server",
            f"-dir={data}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-filer",
            "-s3",
        ),
        *(f"-{name}.port={port}" for name, port in ports.items()),
        *(*grpc, "-master.volumeSizeLimitMB=64", "-volume.max=20", "-master.telemetry=false"),
        *(f"-s3.config={configuration}", "-s3.port.iceberg=0", "-s3.port.lance=0"),
    )

    def store(access_key: str, secret_key: str) -> Any:
        return fs.S3FileSystem(
            access_key=access_key,
            secret_key=secret_key,
            endpoint_override=f"127.0.0.1:{ports['s3']}",
            scheme="http",
            region="local",
            request_timeout=20,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
            check_directory_existence_before_creation=False,
        )

    def put(client: Any, key: str, bucket: str = "coinmesh") -> None:
        with client.open_output_stream(f"{bucket}/{key}") as stream:
            stream.write(key.encode())

    def get(client: Any, key: str, bucket: str = "coinmesh") -> bytes:
        with client.open_input_stream(f"{bucket}/{key}") as stream:
            return stream.read()

    def listed(client: Any, prefix: str) -> list[str]:
        found = client.get_file_info(fs.FileSelector(f"coinmesh/{prefix}", recursive=True))
        return sorted(entry.path for entry in found if entry.is_file)

    admin, spark, cli = (store(**keys[name][0]) for name in ("deploy", "spark-stream", "cli"))
    stranger = store("0" * 20, "0" * 40)

    def ready() -> bool:
        try:
            bucket = fs.S3FileSystem(
                access_key=keys["deploy"][0]["access_key"],
                secret_key=keys["deploy"][0]["secret_key"],
                endpoint_override=f"127.0.0.1:{ports['s3']}",
                scheme="http",
                region="local",
                allow_bucket_creation=True,
            )
            bucket.create_dir("coinmesh")
            bucket.create_dir("coinmesh-audit")
            put(admin, "audit/head")
        except OSError:
            return False
        return True

    eventually(ready, "the S3 store takes an object", timeout=90)
    put(spark, "raw/t/1")
    for client in (spark, cli):
        assert get(client, "raw/t/1") == b"raw/t/1"
        assert listed(client, "raw") == ["coinmesh/raw/t/1"]
    anchor = store(**keys["audit-anchor"][0])
    put(anchor, "audit/1", "coinmesh-audit")
    for client in (anchor, cli):
        assert get(client, "audit/1", "coinmesh-audit") == b"audit/1"
    for refused in (
        lambda: get(cli, "audit/head"),
        lambda: put(cli, "audit/2", "coinmesh-audit"),
        lambda: put(anchor, "other/1", "coinmesh-audit"),
        lambda: put(anchor, "audit/1"),
        lambda: get(spark, "audit/1", "coinmesh-audit"),
        lambda: put(spark, "curated/x"),
        lambda: put(spark, "rawx"),
        lambda: get(spark, "audit/head"),
        lambda: listed(spark, "audit"),
        lambda: put(cli, "raw/t/2"),
        lambda: cli.delete_file("coinmesh/raw/t/1"),
        lambda: get(stranger, "raw/t/1"),
    ):
        with pytest.raises(OSError, match=r"ACCESS_DENIED|INVALID_ACCESS_KEY_ID|403"):
            refused()
    assert listed(admin, "") == ["coinmesh/audit/head", "coinmesh/raw/t/1"]
