"""Names of pyarrow's classes for annotations: pyarrow has no types, so each is an alias of Any."""

from typing import Any, TypeAlias

Array: TypeAlias = Any
ChunkedArray: TypeAlias = Any
RecordBatch: TypeAlias = Any
Table: TypeAlias = Any
