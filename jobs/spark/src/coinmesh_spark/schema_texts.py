"""Texts of the schemas of archived records, stored with the records."""

from __future__ import annotations

from typing import Any, cast
from urllib.parse import quote

from meshkit.registry_client import RegistryClient
from meshkit.settings import RegistrySettings


class SchemaTexts:
    """Reads schemas and their imports from the registry."""

    def __init__(self, settings: RegistrySettings) -> None:
        self._client = RegistryClient(settings)

    def read(self, schema_id: int) -> tuple[str, dict[str, str]] | None:
        """Return a schema's text and its imports' texts by path; None for an unknown id.

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
        return cast(dict[str, Any] | None, self._client.get(path))
