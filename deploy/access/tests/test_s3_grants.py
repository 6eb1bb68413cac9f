"""The object store holds to the access table, for every service, prefix and operation."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from pyarrow import fs

from coinmesh_access import s3_identities, table
from coinmesh_access.table import Service
from coinmesh_local.testing import TestMesh
from meshkit.settings import S3Settings

pytestmark = pytest.mark.component
TABLE = table.load()
USERS = {name: one for name, one in TABLE.services.items() if one.uses_s3 and not one.s3.admin}
#: Every prefix of the table, in both buckets, and some that are nobody's.
PREFIXES = sorted(
    {prefix for one in USERS.values() for prefix in (*one.s3.read, *one.s3.write)}
    | {f"{bucket}{prefix}" for bucket in ("", "coinmesh-audit:") for prefix in ("raw/", "other/")}
    | {"audit/", "rawx/"}
)
OBJECT = "grants-test"


def connect(mesh: TestMesh, access_key: str, secret_key: str) -> fs.S3FileSystem:
    return fs.S3FileSystem(
        access_key=access_key,
        secret_key=secret_key,
        endpoint_override=mesh.read(S3Settings).s3_endpoint.removeprefix("https://"),
        tls_ca_file_path=str(mesh.home.ca),
        region="us-east-1",
        request_timeout=20,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
        check_directory_existence_before_creation=False,
    )


def store(mesh: TestMesh, service: str) -> fs.S3FileSystem:
    """The store as a service comes to it."""
    keys = mesh.read(S3Settings, service).s3_credentials()
    return connect(mesh, keys.access_key, keys.secret_key.get_secret_value())


def place(prefix: str) -> str:
    """The path of a prefix of the table, without the star."""
    return s3_identities.place(TABLE, prefix).removesuffix("/*")


def may(act: Callable[[], object]) -> bool:
    """Whether the store lets it happen."""
    try:
        act()
    except OSError as error:
        if "ACCESS_DENIED" not in str(error):
            raise
        return False
    return True


def read(client: fs.S3FileSystem, path: str) -> None:
    with client.open_input_stream(path) as stream:
        assert stream.read()


def write(client: fs.S3FileSystem, path: str) -> None:
    with client.open_output_stream(path) as stream:
        stream.write(path.encode())


def listed(client: fs.S3FileSystem, path: str) -> None:
    client.get_file_info(fs.FileSelector(path, recursive=True))


def rights(client: fs.S3FileSystem, prefix: str) -> dict[str, bool]:
    """What a client may do below a prefix in which an object lies."""
    path = place(prefix)
    return {
        "read": may(lambda: read(client, f"{path}/{OBJECT}")),
        "list": may(lambda: listed(client, path)),
        "write": may(lambda: write(client, f"{path}/{OBJECT}")),
        "delete": may(lambda: client.delete_file(f"{path}/{OBJECT}")),
    }


def granted(service: Service, prefix: str) -> dict[str, bool]:
    reads, writes = prefix in service.s3.read, prefix in service.s3.write
    return {"read": reads, "list": reads, "write": writes, "delete": writes}


@pytest.fixture
def prefixes(mesh: TestMesh) -> Any:
    """An object below each prefix, put there by the deployer."""
    mesh.require("bucket")
    deployer = store(mesh, "deploy")
    for prefix in PREFIXES:
        write(deployer, f"{place(prefix)}/{OBJECT}")
    return PREFIXES


@pytest.mark.parametrize("service", USERS)
def test_a_service_may_do_below_each_prefix_what_the_table_says(
    mesh: TestMesh, prefixes: list[str], service: str
) -> None:
    client = store(mesh, service)
    assert {prefix: rights(client, prefix) for prefix in prefixes} == {
        prefix: granted(TABLE.services[service], prefix) for prefix in prefixes
    }


@pytest.mark.usefixtures("prefixes")
@pytest.mark.parametrize("service", USERS)
def test_a_service_makes_no_buckets_and_sees_no_whole_one(mesh: TestMesh, service: str) -> None:
    client = store(mesh, service)
    for bucket in (TABLE.bucket, "coinmesh-audit"):
        assert not may(lambda at=bucket: listed(client, at))
        assert not may(lambda at=bucket: write(client, f"{at}/{OBJECT}"))
        assert not may(lambda at=bucket: client.delete_dir(at))
    assert not may(lambda: write(client, f"new-bucket/{OBJECT}"))


def test_only_who_uses_the_store_has_keys(mesh: TestMesh, prefixes: list[str]) -> None:
    having = {path.parent.name for path in mesh.home.secrets.glob("*/s3.json")}
    assert having == {name for name, one in TABLE.services.items() if one.uses_s3}
    keys = mesh.read(S3Settings, "spark-stream").s3_credentials()
    for key, secret in (("0" * 20, "0" * 40), (keys.access_key, "0" * 40)):
        stranger = connect(mesh, key, secret)
        for prefix, act in itertools.product(prefixes, (read, write)):
            with pytest.raises(OSError, match=r"ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE"):
                act(stranger, f"{place(prefix)}/{OBJECT}")
