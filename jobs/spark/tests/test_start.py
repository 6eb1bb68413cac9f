"""Starting without what is needed: a clear error that names it, before Spark is started."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

COINMESH_SPARK = str(Path(sys.executable).parent / "coinmesh-spark")


class Registry(BaseHTTPRequestHandler):
    """A registry that holds no schemas."""

    def do_GET(self):
        body = json.dumps({"error_code": 40401, "message": "no such subject"}).encode()
        self.send_response(404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def empty_registry():
    server = HTTPServer(("127.0.0.1", 0), Registry)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/apis/ccompat/v7"
    server.shutdown()
    thread.join()
    server.server_close()


def start(tmp_path, *arguments, **environment):
    settings = {
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "SCHEMA_REGISTRY_URL": "http://127.0.0.1:1/apis/ccompat/v7",
        "SCHEMA_REGISTRY_WAIT_SECONDS": "0",
        "CASSANDRA_CONTACT_POINTS": "127.0.0.1:1",
        "S3_ENDPOINT": "http://127.0.0.1:1",
        "S3_CREDENTIALS_FILE": str(tmp_path / "s3.json"),
        "SPARK_CHECKPOINT_DIR": str(tmp_path / "checkpoint"),
        "SPARK_SNAPSHOT_DIR": str(tmp_path / "snapshots"),
        "SPARK_JARS": str(tmp_path),
        **environment,
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COINMESH_")}
    return subprocess.run(
        [COINMESH_SPARK, *(arguments or ("stream",))],
        env=kept | {f"COINMESH_{name}": value for name, value in settings.items() if value},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_missing_setting_is_named(tmp_path):
    done = start(tmp_path, SPARK_CHECKPOINT_DIR="")
    assert done.returncode == 2
    assert "COINMESH_SPARK_CHECKPOINT_DIR is not set" in done.stderr


def test_an_unknown_interval_is_named(tmp_path):
    done = start(tmp_path, SPARK_INDICATOR_INTERVALS="1s,2m")
    assert done.returncode == 2
    assert "'2m' is none of 1s, 1m, 5m, 1h, 1d" in done.stderr


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    done = start(tmp_path, SPARK_SNAPSHOT_DIR=str(tmp_path / "file" / "snapshots"))
    assert done.returncode == 2
    assert "COINMESH_SPARK_SNAPSHOT_DIR: can't write" in done.stderr


def test_an_unreachable_registry_is_named(tmp_path):
    done = start(tmp_path)
    assert done.returncode == 1
    assert "the registry at http://127.0.0.1:1/apis/ccompat/v7 doesn't answer" in done.stderr


def test_a_schema_that_is_not_registered_is_named(tmp_path, empty_registry):
    done = start(tmp_path, SCHEMA_REGISTRY_URL=empty_registry)
    assert done.returncode == 1
    assert "has no subject market.instruments.v1-value" in done.stderr


def test_reset_forgets_the_fold(tmp_path):
    for part in ("checkpoint/bars", "snapshots"):
        (tmp_path / part).mkdir(parents=True)
    done = start(tmp_path, "reset")
    assert done.returncode == 0
    assert not (tmp_path / "snapshots").exists()
    assert not (tmp_path / "checkpoint" / "bars").exists()
