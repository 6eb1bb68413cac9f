"""How clients of the redis library connect: who they are, and by which certificate."""

from __future__ import annotations

from typing import Any

from redis.credentials import CredentialProvider

from meshkit.settings import RedisSettings
from meshkit.tls import certificate_files


class _Credentials(CredentialProvider):
    """Reads user and password for each new connection, so that a rotation is taken up."""

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        found = self._settings.redis_credentials()
        assert found is not None
        return found.username, found.password.get_secret_value()


def redis_options(settings: RedisSettings) -> dict[str, Any]:
    """Arguments for `from_url` beside the URL; SettingsError when the credentials can't be read."""
    options: dict[str, Any] = {}
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
