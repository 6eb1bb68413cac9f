"""The exchange's clock: market time that runs at a selected speed, or is stopped."""

import time
from collections.abc import Callable


class ExchangeClock:
    """Market time in µs since the epoch."""

    def __init__(
        self, speed: float, at: int, monotonic_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """Create a clock stopped at `at` until `start`; `speed` is market time per wall time."""
        self.speed = speed
        self._running = speed
        self._at = at
        self._monotonic = monotonic_ns
        self._anchor: int | None = None

    def start(self, at: int, *, speed: float | None = None) -> None:
        """Start at market time `at` (µs), at `speed` if given, else at the usual speed."""
        self._at = at
        self._running = self.speed if speed is None else speed
        self._anchor = self._monotonic()

    def change_speed(self, speed: float) -> None:
        """Run at another speed from now on; a stopped clock uses it when it starts."""
        self.speed = speed
        if self._anchor is not None:
            self.start(self.now())

    def now(self) -> int:
        """Return the present market time in µs."""
        if self._anchor is None:
            return self._at
        return self._at + int((self._monotonic() - self._anchor) * self._running) // 1000

    def wall_seconds_until(self, at: int) -> float:
        """Return the wall seconds until market time `at`; 0 when it has passed."""
        return max(0.0, (at - self.now()) / 1e6 / self._running)
