"""TLS configuration of Envoy's listeners and of its connections to servers.

`tls_dir/current/` holds tls.key, tls.crt and ca.crt; `current` is a symbolic link swapped by a
rename. Envoy reads them through SDS files that contain their paths and the directory to watch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshkit.tls import SERVICE_PREFIX, CertificateFiles

_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
_IDENTITY, _ROOTS = "identity", "roots"
# By default Envoy offers at most TLS 1.2 to services and also accepts 1.2 from clients.
_PARAMS = {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"}


class Tls:
    """Transport sockets for one `tls_dir`, with the SDS files in `secrets_dir`."""

    def __init__(self, tls_dir: Path, secrets_dir: Path) -> None:
        self._tls_dir, self._secrets_dir = tls_dir, secrets_dir

    def connection(self) -> dict[str, str]:
        """Return the maximum duration of a connection, for `common_http_protocol_options`.

        A connection ends before its certificate expires. While there is none yet, a certificate of
        one hour is assumed.
        """
        files = CertificateFiles(self._tls_dir)
        seconds = files.read().connection_seconds if files.chain.exists() else 900.0
        return {"max_connection_duration": f"{seconds:.3f}s"}

    def secrets(self) -> dict[Path, dict[str, Any]]:
        """Return the SDS files to write, by path."""
        current = self._tls_dir / "current"
        identity = {
            "tls_certificate": {
                "certificate_chain": {"filename": str(current / "tls.crt")},
                "private_key": {"filename": str(current / "tls.key")},
                "watched_directory": {"path": str(self._tls_dir)},
            }
        }
        return {
            self._path(_IDENTITY): _secret(_IDENTITY, identity),
            self._path(_ROOTS): _secret(_ROOTS, _trusted(current / "ca.crt", self._tls_dir)),
        }

    def downstream(self) -> dict[str, Any]:
        """Return the public listener's transport socket: no client certificate is requested."""
        return _socket(
            "DownstreamTlsContext",
            {
                "common_tls_context": {
                    "tls_params": _PARAMS,
                    "alpn_protocols": ["h2", "http/1.1"],
                    "tls_certificate_sds_secret_configs": [self._sds(_IDENTITY)],
                }
            },
        )

    def mutual(self) -> dict[str, Any]:
        """Return a listener's transport socket for services: mutual TLS with HTTP/1.1."""
        return _socket(
            "DownstreamTlsContext",
            {
                "require_client_certificate": True,
                "common_tls_context": {
                    "tls_params": _PARAMS,
                    "alpn_protocols": ["http/1.1"],
                    "tls_certificate_sds_secret_configs": [self._sds(_IDENTITY)],
                    "validation_context_sds_secret_config": self._sds(_ROOTS),
                },
            },
        )

    def upstream(self, service: str, protocol: str = "h2") -> dict[str, Any]:
        """Return a cluster's transport socket: mutual TLS; the server must be `service`."""
        return _socket(
            "UpstreamTlsContext",
            {
                "sni": service,
                "common_tls_context": {
                    "tls_params": _PARAMS,
                    "alpn_protocols": [protocol],
                    "tls_certificate_sds_secret_configs": [self._sds(_IDENTITY)],
                    "combined_validation_context": {
                        "default_validation_context": {
                            "match_typed_subject_alt_names": [
                                {
                                    "san_type": "URI",
                                    "matcher": {"exact": f"{SERVICE_PREFIX}{service}"},
                                }
                            ]
                        },
                        "validation_context_sds_secret_config": self._sds(_ROOTS),
                    },
                },
            },
        )

    def _sds(self, name: str) -> dict[str, Any]:
        return _sds(name, self._path(name))

    def _path(self, name: str) -> Path:
        return self._secrets_dir / f"envoy-{name}.json"


@dataclass(frozen=True)
class ServerCa:
    """The CA file of a server outside the mesh; Envoy reloads it when it is replaced.

    Attributes:
        name: The server's name.
        file: The CAs, PEM. The file, or a link to it, is replaced in its directory by a rename.
        secrets_dir: The directory of the SDS file that refers to `file`.
    """

    name: str
    file: Path
    secrets_dir: Path

    def secrets(self) -> dict[Path, dict[str, Any]]:
        """Return the SDS file to write, by path."""
        return {self._path: _secret(self._secret, _trusted(self.file, self.file.parent))}

    def upstream(self, kind: str, name: str) -> dict[str, Any]:
        """Return a transport socket without client certificate; the server must be `name`."""
        matcher = {"san_type": kind, "matcher": {"exact": name}}
        return _socket(
            "UpstreamTlsContext",
            {
                "sni": "localhost" if kind == "IP_ADDRESS" else name,
                "common_tls_context": {
                    "tls_params": _PARAMS,
                    "combined_validation_context": {
                        "default_validation_context": {"match_typed_subject_alt_names": [matcher]},
                        "validation_context_sds_secret_config": _sds(self._secret, self._path),
                    },
                },
            },
        )

    @property
    def _secret(self) -> str:
        return f"{_ROOTS}-{self.name}"

    @property
    def _path(self) -> Path:
        return self.secrets_dir / f"envoy-{self._secret}.json"


def _secret(name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    return {"resources": [{"@type": f"{_TYPE}Secret", "name": name, **content}]}


def _trusted(ca: Path, watched: Path) -> dict[str, Any]:
    return {
        "validation_context": {
            "trusted_ca": {"filename": str(ca)},
            "watched_directory": {"path": str(watched)},
        }
    }


def _sds(name: str, path: Path) -> dict[str, Any]:
    source = {"path": str(path)}
    return {
        "name": name,
        "sds_config": {"path_config_source": source, "resource_api_version": "V3"},
    }


def _socket(kind: str, context: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {"@type": f"{_TYPE}{kind}", **context},
    }
