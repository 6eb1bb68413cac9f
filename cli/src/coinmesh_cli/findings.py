"""Findings of `coinmesh doctor` and their remedies."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "bad"]


@dataclass(frozen=True)
class Finding:
    """One line of `coinmesh doctor`."""

    area: str
    level: Level
    what: str
    #: The remedy; empty when nothing is wrong.
    do: str = ""
