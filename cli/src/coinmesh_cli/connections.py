"""How the command line reaches the mesh's HTTP endpoints: as the operator, where that is asked."""

import ssl
from collections.abc import Mapping

import httpx


def http_client(endpoint: Mapping[str, str | None], timeout: float = 3.0) -> httpx.Client:
    """A client for `endpoint` (see `Mesh.endpoints`), which trusts the CA that it names."""
    ca = endpoint.get("ca")
    verify: ssl.SSLContext | bool = ssl.create_default_context(cafile=ca) if ca else True
    return httpx.Client(base_url=str(endpoint["url"]), verify=verify, timeout=timeout)
