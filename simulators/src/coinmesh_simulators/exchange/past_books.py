"""An order book at the times of its last depth events: REST snapshots may be that old."""

from collections import deque
from itertools import islice

from coinmesh_simulators.exchange.book import Side

#: Number of depth events that can be undone; ten of them are a second.
MOST_EVENTS = 10

_Level = tuple[Side, int]


class PastBooks:
    """Quantities of levels before the last depth events, by side and price."""

    def __init__(self) -> None:
        self._pending: dict[_Level, int] = {}  # before the changes since the last event
        # Newest first: the update id before the event, and the quantities of its levels then.
        self._events: deque[tuple[int, dict[_Level, int]]] = deque(maxlen=MOST_EVENTS)

    def on_change(self, level: _Level, quantity: int) -> None:
        """Save a level's quantity before a change."""
        self._pending.setdefault(level, quantity)

    def on_event(self, id_before: int) -> None:
        """Start over after a depth event; `id_before` is the update id before it."""
        self._events.appendleft((id_before, self._pending))
        self._pending = {}

    def clear(self) -> None:
        """Delete all events and changes."""
        self._pending.clear()
        self._events.clear()

    def quantity_before(self, level: _Level) -> int:
        """Return the quantity at the last depth event of a level changed since."""
        return self._pending[level]

    def at(self, events_ago: int, depth_id: int) -> tuple[int, dict[_Level, int]]:
        """Return update id and earlier quantities of the event `events_ago` before the last one.

        `depth_id` is the last event's update id; the quantities are those of levels that changed
        later. The oldest known event stands for earlier ones.
        """
        before = dict(self._pending)
        for id_before, levels in islice(self._events, events_ago):
            depth_id = id_before
            before |= levels
        return depth_id, before
