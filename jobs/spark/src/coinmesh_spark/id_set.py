"""A set of native ids as coalesced spans: its size grows with the gaps, not with the ids."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

MAX_SPANS: Final = 4096
"""Beyond this many spans the lowest are joined. Ids in their gaps count as seen from then on; gaps
so old can only be filled by trades that are late anyway."""

_Ids = NDArray[np.int64]


class IdSet:
    """Ids seen so far, below 2^63, as sorted spans [first, last] that are not adjacent."""

    def __init__(self, spans: Iterable[tuple[int, int]] = ()) -> None:
        pairs = np.array(list(spans), dtype=np.int64).reshape(-1, 2)
        self._first: _Ids = pairs[:, 0].copy()
        self._last: _Ids = pairs[:, 1].copy()

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Return the spans, lowest first."""
        return list(zip(self._first.tolist(), self._last.tolist(), strict=True))

    def admit(self, ids: _Ids) -> NDArray[np.bool_]:
        """Add `ids`; return True for each new id, at its first occurrence only."""
        fresh = np.zeros(len(ids), dtype=np.bool_)
        unique, first_at = np.unique(ids, return_index=True)
        if len(self._first):
            span = np.searchsorted(self._first, unique, side="right") - 1
            unseen = (span < 0) | (unique > self._last[np.maximum(span, 0)])
            unique, first_at = unique[unseen], first_at[unseen]
        if len(unique):
            fresh[first_at] = True
            breaks = np.flatnonzero(np.diff(unique) != 1)
            self._join(unique[np.r_[0, breaks + 1]], unique[np.r_[breaks, len(unique) - 1]])
        return fresh

    def _join(self, first: _Ids, last: _Ids) -> None:
        """Add spans that don't overlap the existing ones."""
        all_first = np.concatenate([self._first, first])
        order = np.argsort(all_first, kind="stable")
        all_first = all_first[order]
        all_last = np.concatenate([self._last, last])[order]
        apart = all_first[1:] != all_last[:-1] + 1
        self._first = all_first[np.r_[True, apart]]
        self._last = all_last[np.r_[apart, True]]
        excess = len(self._first) - MAX_SPANS
        if excess > 0:
            lowest = self._first[0]
            self._first, self._last = self._first[excess:], self._last[excess:]
            self._first[0] = lowest
