"""Connection options of redis clients: credentials and certificate."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from redis.credentials import CredentialProvider

from meshkit.settings import RedisSettings
from meshkit.tls import certificate_files, require_plaintext_allowed


class _Credentials(CredentialProvider):
    """Reads user and password for each new connection, so that a rotation takes effect."""

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        found = self._settings.redis_credentials()
        assert found is not None
        return found.username, found.password.get_secret_value()


def redis_options(settings: RedisSettings) -> dict[str, Any]:
    """Return arguments for `from_url` other than the URL.

    Raises:
        SettingsError: The credentials can't be read, or would be sent beyond loopback in plaintext.
    """
    options: dict[str, Any] = {}
    url = urlsplit(settings.redis_url)
    if url.scheme == "redis":
        require_plaintext_allowed(url.hostname or "localhost", settings, "connect to")
    files = certificate_files(settings)
    if files is not None and settings.redis_url.startswith("rediss"):
        options |= {
            "ssl_certfile": str(files.chain),
            "ssl_keyfile": str(files.key),
            "ssl_ca_certs": str(files.roots),
        }
    if settings.redis_credentials() is not None:
        options["credential_provider"] = _Credentials(settings)
    return options
