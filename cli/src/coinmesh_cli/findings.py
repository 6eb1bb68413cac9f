"""What a check found, and what to do about it."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "bad"]


@dataclass(frozen=True)
class Finding:
    """One line of `coinmesh doctor`."""

    area: str
    level: Level
    what: str
    #: The way out; empty when all is well.
    do: str = ""
