"""Output of a replay: events as JSON Lines per topic, and their digests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from google.protobuf.json_format import MessageToJson

from coinmesh_contracts.topics import Topic
from coinmesh_sources.digest import Digests, parse
from coinmesh_sources.inputs import Record


class Output:
    """A directory with `<topic>.jsonl` per topic and `digest`; files appear only when complete.

    Use it as a context manager.

    Args:
        directory: The directory; created if it is missing.
        topics: The topics of the events.

    Attributes:
        counts: Events written, by topic.

    Raises:
        OSError: A file can't be written.
    """

    def __init__(self, directory: Path, topics: Iterable[Topic]) -> None:
        self._directory = directory
        self._digests = Digests()
        self._cleanup = ExitStack()
        self._files: dict[str, IO[str]] = {}
        self.counts = {topic.name: 0 for topic in topics}

    def __enter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        for topic in self.counts:
            file = self._partial(topic).open("w", encoding="utf-8")
            self._files[topic] = self._cleanup.enter_context(file)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._cleanup.close()

    def write(self, records: Sequence[Record]) -> None:
        """Append events to their topics' files."""
        for topic, key, value in records:
            event = parse(topic, value)
            line = MessageToJson(event, indent=None, ensure_ascii=False)
            self._files[topic].write(line + "\n")
            self._digests.add(topic, key, event)
            self.counts[topic] += 1

    def finish(self) -> None:
        """Rename the files to their final names and write the digests."""
        for topic, file in self._files.items():
            file.close()
            self._partial(topic).replace(self._directory / f"{topic}.jsonl")
        lines = [f"{self._digests.hexdigest(topic)}  {topic}\n" for topic in sorted(self._files)]
        (self._directory / "digest").write_text("".join(lines))

    def _partial(self, topic: str) -> Path:
        return self._directory / f".{topic}.jsonl.partial"
