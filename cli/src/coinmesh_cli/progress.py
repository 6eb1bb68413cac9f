"""Progress output of `coinmesh up`: one line per change, a spinner on a terminal."""

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.status import Status

#: States whose lines stay on the screen; the others appear beside the spinner only.
LASTING = {"ready": "green", "done": "green", "failed": "red", "crashed": "red", "stopped": "dim"}


class Progress:
    """Print elapsed time, component and state; for terminals and log files."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._spinner = Status("starting", console=self._console)
        self._begun = time.monotonic()
        self._busy: dict[str, str] = {}
        self._last_note = ""

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._spinner.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._spinner.stop()

    def note(self, text: str) -> None:
        """Show ongoing work; a text with the same prefix before ":" replaces the previous one."""
        stem = text.partition(":")[0]
        if self._console.is_terminal and stem == self._last_note:
            self._spinner.update(text)
            return
        if stem != self._last_note or not self._console.is_terminal:
            if stem != self._last_note:
                self._line("", text, "")
            self._last_note = stem

    def event(self, event: dict[str, Any]) -> None:
        """Show a state change from the supervisor."""
        if event["event"] != "state":
            return
        name, state, detail = event["name"], event["state"], event["detail"]
        if state in LASTING:
            self._busy.pop(name, None)
            detail = str(detail).splitlines()[0] if detail else ""
            self._line(f"{name} {state}", detail, LASTING[state])
        else:
            self._busy[name] = state
        waiting = ", ".join(f"{n} {s}" for n, s in self._busy.items())
        self._spinner.update(waiting or "working")

    def _line(self, head: str, detail: str, style: str) -> None:
        elapsed = time.monotonic() - self._begun
        text = f"{elapsed:7.1f} s  {head}{'  ' if head and detail else ''}{detail}"
        self._console.print(text, style=style, markup=False)
