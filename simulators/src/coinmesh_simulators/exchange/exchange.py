"""The exchange: its symbols, its clock, and the loop that plays or generates the market."""

import asyncio
import logging
import time
from collections.abc import Iterator
from typing import Any, Literal

from coinmesh_simulators.exchange.bars import MINUTE, SECOND, window
from coinmesh_simulators.exchange.capture import Frame, Survey, frames, identity, survey
from coinmesh_simulators.exchange.clock import ExchangeClock
from coinmesh_simulators.exchange.coverage import Coverage
from coinmesh_simulators.exchange.faults import Faults
from coinmesh_simulators.exchange.flow import TENTH, EventFlow
from coinmesh_simulators.exchange.hub import Hub
from coinmesh_simulators.exchange.listings import ListingError, Listings
from coinmesh_simulators.exchange.market import SymbolStatus
from coinmesh_simulators.exchange.playback import Playback
from coinmesh_simulators.exchange.settings import SimulatorSettings, TimeMode
from coinmesh_simulators.exchange.store import StateError, Store

_log = logging.getLogger(__name__)

ListingChange = SymbolStatus | Literal["list", "delist", "start_over"]

_SHORTEST_SLEEP = 0.002  # wall seconds
_BATCH = 1_000  # frames between two commits while catching up
_PRUNE_EVERY = 60.0  # wall seconds


class Exchange:
    """One market behind all responses, stored in the state directory."""

    def __init__(self, settings: SimulatorSettings) -> None:
        """Load the state, or start a new one.

        Raises:
            CaptureError: The capture can't be played.
            StateError: The state directory is unusable or has another market; with the remedy.
            ValueError: The settings name no valid symbols.
        """
        self._settings = settings
        self.store = Store(settings.state_dir)
        self.faults = Faults()
        self.hub = Hub(self.faults)
        self.listings = Listings(self.store, self.hub)
        self.markets = self.listings.markets
        self._coverage = Coverage(self.hub, self.markets)
        self._frames: Iterator[Frame] = iter(())
        self._playback: Playback | None = None
        self._saved_at = 0.0
        self._pruned_at = time.monotonic()

        meta = self.store.meta()
        self._check_identity(meta)
        self.phase: str = meta.get("phase", "capture" if settings.capture else "generated")
        self._survey: Survey | None = None
        if settings.capture and self.phase == "capture":
            self._survey = survey(settings.capture)
        self._shift: int | None = meta.get("shift")
        self._trade_from: int = meta.get("trade_from", 0)
        self.line: int = meta.get("line", 0)  # of the capture, the last one played
        self.listings.load(settings.symbols, self._survey, generated=self.phase == "generated")
        self._flow = EventFlow(self.markets, settings.rate, settings.seed, meta.get("slots", 0))
        self.clock = ExchangeClock(settings.speed, self._resume_time(meta.get("clock")))
        self._tenths = self.clock.now() // TENTH
        if self.phase == "capture":
            self._prepare_capture(self.line)
        else:
            for market in self.markets.values():
                market.klines.resume(self.clock.now())
            self._start_generated(self.clock.now())

    # -- starting -------------------------------------------------------------------------------

    def _check_identity(self, meta: dict[str, Any]) -> None:
        used, kept = "phase" in meta, meta.get("capture")
        given = identity(self._settings.capture) if self._settings.capture else None
        if used and given is not None and given != kept:
            raise StateError(
                f"state directory {self._settings.state_dir} holds another market than "
                f"{self._settings.capture}: remove it (make reset), or set "
                "COINMESH_SIM_STATE_DIR to a new one"
            )
        if used and given is None and meta["phase"] == "capture":
            raise StateError(
                f"state directory {self._settings.state_dir} stopped in the middle of a capture: "
                "set COINMESH_SIM_CAPTURE to it again, or remove the directory (make reset)"
            )
        self.store.set_meta(capture=given or kept)

    def _resume_time(self, kept: int | None) -> int:
        wall = time.time_ns() // 1000
        as_kept = self._settings.time is TimeMode.KEPT
        if self._survey is not None and not self.line:
            return self._survey.begin_us if as_kept else wall
        if self._survey is not None or (as_kept and self._settings.capture):
            return kept or wall
        return max(wall, kept or 0)

    def _prepare_capture(self, line: int) -> None:
        """Replay the lines of an earlier run silently: no client is subscribed yet."""
        assert self._survey is not None
        if self._shift is None and self._settings.time is TimeMode.KEPT:
            self._shift = 0
        self._frames = frames(self._survey.path)
        self._tenths = (self._survey.begin_us + (self._shift or 0)) // TENTH
        self._playback = Playback(self._survey, self.markets, self._shift or 0)
        if line:
            for frame in self._frames:
                self._tenths_until(self._playback.market_time(frame))
                self._playback.apply(frame)
                if frame.line >= line:
                    break
            self.store.commit()
        elif self._settings.time is TimeMode.NOW:
            self.clock.start(self.clock.now(), speed=1.0)
        _log.info(
            "capture %s is ready at line %d; it plays when its streams are subscribed to: %s",
            self._survey.path,
            line,
            " ".join(sorted(" or ".join(group) for group in self._coverage.required())),
        )

    # -- listings -------------------------------------------------------------------------------

    def change_listing(self, symbol: str, change: ListingChange) -> None:
        """List, delist, start over or change the status of a symbol, or raise ListingError."""
        if self.phase != "generated":
            raise ListingError("a capture is playing: its symbols can't be changed")
        match change:
            case SymbolStatus():
                self.listings.set_status(symbol, change)
            case "delist":
                self.listings.delist(symbol)
            case "list":
                self._flow.populate(self.listings.add(symbol))
            case "start_over":
                self._flow.populate(self.listings.start_over(symbol))
        self._flow.rank()
        self._commit()

    # -- running --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Play or generate until cancelled."""
        try:
            if self.phase == "capture":
                await self._coverage.wait()
                await self._play()
            await self._generate()
        finally:
            self._commit(force=True)
            self.store.close()

    async def _play(self) -> None:
        assert self._survey is not None
        playback = self._begin_playback(self._survey)
        count = 0
        for frame in self._frames:
            due = playback.market_time(frame)
            while True:
                wait = self.clock.wall_seconds_until(min(due, (self._tenths + 1) * TENTH))
                if wait or count >= _BATCH:
                    self._commit()
                    count = 0
                    await asyncio.sleep(wait)
                self._tenths_until(min(due, self.clock.now()))
                if due <= self.clock.now():
                    break
            playback.apply(frame)
            self.line = frame.line
            count += 1
        self._end_capture()

    def _begin_playback(self, capture: Survey) -> Playback:
        """Start the clock at the time of the next frame."""
        if self._shift is None:
            self._shift = (time.time_ns() // 1000 - capture.begin_us) // 1000 * 1000
            self._playback = Playback(capture, self.markets, self._shift)
        assert self._playback is not None
        begin = capture.begin_us + self._shift
        self.clock.start(max(self.clock.now(), begin) if self.line else begin)
        self._tenths = max(self._tenths, self.clock.now() // TENTH)
        _log.info("capture %s plays from line %d", capture.path, self.line)
        return self._playback

    def _end_capture(self) -> None:
        assert self._survey is not None
        end = self._survey.end_us + (self._shift or 0)
        for market in self.markets.values():
            market.aggregates.flush(end)
            market.end_capture()
        if self._settings.time is TimeMode.KEPT:
            # No bar mixes recorded and generated trades.
            self._trade_from = window("1m", end)[0] + MINUTE
        else:
            end = max(end, time.time_ns() // 1000)
        self._playback = None
        self.phase = "generated"
        self.clock.start(max(end, self._tenths * TENTH))
        _log.info("the capture has ended; the generated market goes on")
        self._start_generated(self.clock.now())
        self._commit(force=True)

    def _start_generated(self, now: int) -> None:
        for place, market in enumerate(self.markets.values()):
            # The busiest book is deeper than any snapshot.
            self._flow.populate(market, 0 if place else self._settings.deep_levels)
        self._flow.begin(now, self._trade_from)
        self._tenths = max(self._tenths, now // TENTH)
        self.clock.start(now)

    async def _generate(self) -> None:
        while True:
            now = self.clock.now()
            done = 0
            while (due := self._flow.due) <= now and done < _BATCH:
                done += self._flow.step() + 1
                self._tenths_until(due)
            self._commit()
            wait = self.clock.wall_seconds_until(self._flow.due)
            await asyncio.sleep(max(wait, _SHORTEST_SLEEP))
            if time.monotonic() - self._pruned_at > _PRUNE_EVERY:
                self._prune()

    def _tenths_until(self, time_us: int) -> None:
        """Process the tenths of a second up to a market time."""
        while (self._tenths + 1) * TENTH <= time_us:
            self._tenths += 1
            now = self._tenths * TENTH
            grace = 2 * SECOND if self.phase == "capture" else 0
            full = self._tenths % 10 == 0
            for market in self.markets.values():
                if market.touched:
                    market.tenth(now)
            if full:
                for market in self.markets.values():
                    if market.status is SymbolStatus.TRADING:
                        market.klines.roll(now - grace, now)
                        market.second(now)
                self._all_tickers(now)

    def _all_tickers(self, now: int) -> None:
        """Publish `!miniTicker@arr`, which contains only symbols that changed."""
        if self.hub.wanted("!miniTicker@arr"):
            traded = [
                market.klines for market in self.markets.values() if market.klines.is_news(now)
            ]
            if not traded:
                return

            def build(micro: bool) -> bytes:
                return b"[" + b",".join(k.mini_ticker(now, micro) for k in traded) + b"]"

            self.hub.publish("!miniTicker@arr", build)

    def _commit(self, *, force: bool = False) -> None:
        """Commit the state, then send the frames."""
        dirty = False
        for market in self.markets.values():
            if market.dirty:
                dirty = True
                market.save(whole=self.phase == "generated")
        if dirty or force or time.monotonic() - self._saved_at > 1:
            self._saved_at = time.monotonic()
            self.store.set_meta(
                phase=self.phase,
                line=self.line,
                shift=self._shift,
                clock=self.clock.now(),
                trade_from=self._trade_from,
                slots=self._flow.slots,
            )
            self.store.commit()
        self.hub.flush()

    def _prune(self) -> None:
        self._pruned_at = time.monotonic()
        for market in self.markets.values():
            below = market.last_trade - self._settings.history
            if below > 0:
                self.store.prune(market.key, below)
