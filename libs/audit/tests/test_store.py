"""The anchors' store, against a server that looks at who asks."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from coinmesh_audit.store import AnchorStore, AuditStoreSettings

NOTHING = b"<ListVersionsResult><IsTruncated>false</IsTruncated></ListVersionsResult>"


class Store(BaseHTTPRequestHandler):
    """An empty bucket."""

    keys: list[str]

    def do_GET(self) -> None:
        found = re.search("Credential=([^/]+)/", self.headers["Authorization"])
        self.keys.append(found[1] if found else "nobody")
        self.send_response(200)
        self.send_header("Content-Length", str(len(NOTHING)))
        self.end_headers()
        self.wfile.write(NOTHING)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


def test_new_keys_are_used_from_the_next_request_on(tmp_path: Path) -> None:
    class Recording(Store):
        keys: list[str] = []  # noqa: RUF012

    keys = tmp_path / "keys.json"
    with HTTPServer(("127.0.0.1", 0), Recording) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            store = None
            for name in ("first", "first", "second", "third"):
                keys.write_text(json.dumps({"accessKey": name, "secretKey": "x"}))
                keys.chmod(0o600)
                store = store or AnchorStore(
                    AuditStoreSettings(
                        s3_endpoint=f"http://127.0.0.1:{server.server_port}",  # pyright: ignore
                        s3_credentials_file=keys,
                    )
                )
                assert store.listed() == []
        finally:
            server.shutdown()
            serving.join()
    assert Recording.keys == ["first", "first", "second", "third"]
