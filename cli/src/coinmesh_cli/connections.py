"""Access of the command line to the mesh's HTTP endpoints with the operator's certificate."""

import ssl
from collections.abc import Mapping
from pathlib import Path

import httpx

from meshkit.tls import CertificateFiles, trusting_ssl_context

#: The command line's name in the access table.
IDENTITY = "cli"


def http_client(
    endpoint: Mapping[str, str | None], tls: Path, timeout: float = 3.0
) -> httpx.Client:
    """Return a client for `endpoint` (see `Mesh.endpoints`); `tls` has a directory per identity.

    The client uses the operator's certificate if it exists.

    Raises:
        OSError: The endpoint's CA file or the certificate can't be read.
    """
    ca = endpoint.get("ca")
    verify: ssl.SSLContext | bool = True
    if ca:
        files = CertificateFiles(tls / IDENTITY)
        verify = trusting_ssl_context(ca, files if files.chain.is_file() else None)
    return httpx.Client(base_url=str(endpoint["url"]), verify=verify, timeout=timeout)
