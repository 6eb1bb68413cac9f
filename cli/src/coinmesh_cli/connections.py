"""How the command line reaches the mesh's HTTP endpoints: with the operator's certificate."""

import ssl
from collections.abc import Mapping
from pathlib import Path

import httpx

#: The command line's name in the access table.
IDENTITY = "cli"


def http_client(
    endpoint: Mapping[str, str | None], tls: Path, timeout: float = 3.0
) -> httpx.Client:
    """A client for `endpoint` (see `Mesh.endpoints`); `tls` holds a directory per identity.

    Raises OSError while the endpoint wants a certificate that isn't made yet.
    """
    ca = endpoint.get("ca")
    verify: ssl.SSLContext | bool = True
    if ca:
        verify = ssl.create_default_context(cafile=ca)
        current = tls / IDENTITY / "current"
        if current.is_dir():
            verify.load_cert_chain(current / "tls.crt", current / "tls.key")
    return httpx.Client(base_url=str(endpoint["url"]), verify=verify, timeout=timeout)
