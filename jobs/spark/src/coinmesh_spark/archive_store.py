"""Connections of the archive's tasks, kept by a worker process between tasks."""

from __future__ import annotations

from functools import cache, cached_property
from typing import Any

from pyarrow import fs

from coinmesh_spark import object_store
from coinmesh_spark.schema_texts import SchemaTexts
from coinmesh_spark.settings import ArchiveSettings
from coinmesh_spark.sinks.kafka import KafkaSink
from meshkit import logs, settings
from meshkit.registry import Registry
from meshkit.rotation import Renewals
from meshkit.tls import certificate_files

_MAX_SCHEMAS = 10_000


class WorkerStore:
    """A task's connections to the object store, the registry and Kafka."""

    def __init__(self) -> None:
        self._settings = settings.read(ArchiveSettings)
        logs.configure(self._settings.service_name, self._settings.log_level)
        self.bucket = self._settings.s3_bucket
        self.files = object_store.connect(self._settings)
        self._known_schemas: set[int] = set()
        self._accepted: dict[tuple[str, int], bool] = {}
        self._renewals = Renewals(self._version)

    def _version(self) -> object:
        files = certificate_files(self._settings)
        return files and files.version(), self._settings.s3_credentials()

    @property
    def stale(self) -> bool:
        """Return whether the certificate or keys were renewed after the connections were opened."""
        return self._renewals.pending() is not None

    def remember(self, before: WorkerStore) -> None:
        """Copy the schema cache of `before`.

        Requests to a registry that restarts for its own certificate would delay the bars' tasks.
        """
        self._known_schemas, self._accepted = before._known_schemas, before._accepted

    @cached_property
    def kafka(self) -> KafkaSink:
        return KafkaSink(self._settings, self._settings.service_name)

    @cached_property
    def _registry(self) -> Registry:
        return Registry(self._settings)

    @property
    def settings(self) -> ArchiveSettings:
        """Return the task's settings."""
        return self._settings

    @property
    def name(self) -> str:
        return self._settings.service_name

    def accepts(self, topic: str, schema_id: int) -> bool:
        """Return whether a schema id belongs to a topic.

        Raises:
            Unavailable: The registry doesn't answer.
        """
        if not 0 < schema_id < 1 << 31:
            return False
        known = self._accepted.get((topic, schema_id))
        if known is None:
            known = self._registry.accepts_now(topic, schema_id)
            if known and len(self._accepted) < _MAX_SCHEMAS:
                self._accepted[topic, schema_id] = known
        return known

    @cached_property
    def _texts(self) -> SchemaTexts:
        return SchemaTexts(self._settings)

    def put(self, key: str, data: bytes) -> None:
        """Write an object.

        Raises:
            Unavailable: The store doesn't accept it.
        """

        def write() -> None:
            with self.files.open_output_stream(f"{self.bucket}/{key}") as stream:
                stream.write(data)

        object_store.answered(write, self._settings)

    def read(self, key: str) -> bytes | None:
        """Return an object's bytes, None if there is no such object; errors as `put`."""

        def read() -> bytes | None:
            try:
                with self.files.open_input_file(f"{self.bucket}/{key}") as file:
                    return file.readall()
            except FileNotFoundError:
                return None

        return object_store.answered(read, self._settings)

    def has(self, key: str) -> bool:
        """Return whether an object exists; errors as `put`."""
        path = f"{self.bucket}/{key}"

        def query() -> Any:
            return self.files.get_file_info(path)

        info = object_store.answered(query, self._settings)
        return info.type == fs.FileType.File

    def keep_schema(self, schema_id: int) -> None:
        """Store a schema's text unless it is stored; skip ids that are not registered."""
        if schema_id in self._known_schemas:
            return
        key = object_store.schema_object(schema_id)
        if not self.has(key) and (found := self._texts.read(schema_id)) is not None:
            text, imports = found
            for name, imported in imports.items():
                self.put(object_store.reference_object(schema_id, name), imported.encode())
            self.put(key, text.encode())
        self._known_schemas.add(schema_id)


def worker_store() -> WorkerStore:
    """Return this process's connections, replaced after a renewal of certificate or keys."""
    store = _kept_store()
    if store.stale:
        _kept_store.cache_clear()
        _kept_store().remember(store)
    return _kept_store()


@cache
def _kept_store() -> WorkerStore:
    return WorkerStore()
