"""The texts of the schemas that archived records name, kept beside them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import httpx

from meshkit.errors import Unavailable
from meshkit.settings import RegistrySettings
from meshkit.tls import client_ssl_context


class SchemaTexts:
    """Reads schemas and what they import from the registry."""

    def __init__(self, settings: RegistrySettings) -> None:
        verify = client_ssl_context(settings)
        self._url = settings.schema_registry_url
        self._http = httpx.Client(
            base_url=self._url, timeout=5.0, verify=True if verify is None else verify
        )

    def read(self, schema_id: int) -> tuple[str, dict[str, str]] | None:
        """A schema's text and those of its imports by path; None if the registry has no such id.

        Raises:
            Unavailable: The registry doesn't answer.
        """
        found = self._get(f"/schemas/ids/{schema_id}")
        if found is None:
            return None
        imports: dict[str, str] = {}
        self._imports(found, imports)
        return found["schema"], imports

    def _imports(self, document: dict[str, Any], imports: dict[str, str]) -> None:
        for reference in document.get("references") or []:
            if reference["name"] in imports:
                continue
            subject = quote(reference["subject"], safe="")
            found = self._get(f"/subjects/{subject}/versions/{reference['version']}")
            if found is not None:
                imports[reference["name"]] = found["schema"]
                self._imports(found, imports)

    def _get(self, path: str) -> dict[str, Any] | None:
        try:
            response = self._http.get(path)
            if response.status_code == HTTPStatus.NOT_FOUND:
                return None
            response.raise_for_status()
            return response.json()
        except httpx.HTTPError as error:
            raise Unavailable(
                "REGISTRY_UNREACHABLE", f"the registry at {self._url} doesn't answer: {error}"
            ) from error
