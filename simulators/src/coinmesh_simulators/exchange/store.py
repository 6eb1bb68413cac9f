"""State that survives a restart: SQLite in the state directory, one transaction per tick.

Every tick is committed before its frames are sent, so that no id is ever used for different
content: after `kill -9` the market resumes directly after the last committed trade and update.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from coinmesh_simulators.exchange.bars import Bar
from coinmesh_simulators.exchange.book import Change, Side

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS symbols (
    id INTEGER PRIMARY KEY, symbol TEXT NOT NULL UNIQUE, state TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS levels (
    symbol INTEGER, side INTEGER, price INTEGER, quantity INTEGER NOT NULL,
    PRIMARY KEY (symbol, side, price)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS trades (
    symbol INTEGER, id INTEGER, price INTEGER NOT NULL, quantity INTEGER NOT NULL,
    time INTEGER NOT NULL, buyer_is_maker INTEGER NOT NULL, aggregate INTEGER NOT NULL,
    PRIMARY KEY (symbol, id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS trades_by_time ON trades (symbol, time);
CREATE INDEX IF NOT EXISTS trades_by_aggregate ON trades (symbol, aggregate);
CREATE TABLE IF NOT EXISTS minutes (
    symbol INTEGER, start INTEGER, bar TEXT NOT NULL,
    PRIMARY KEY (symbol, start)) WITHOUT ROWID;
"""
MOST = (1 << 63) - 1
_TRADE_COLUMNS = "id, price, quantity, time, buyer_is_maker, aggregate"


class StateError(RuntimeError):
    """Raised when the state directory is unusable; the message has the reason and the remedy."""


class TradeRow(NamedTuple):
    """A stored trade: price and quantity in 10^-8 units, time in µs."""

    id: int
    price: int
    quantity: int
    time: int
    buyer_is_maker: bool
    aggregate: int


class Store:
    """The state directory. Changes are collected in memory until `commit`."""

    def __init__(self, directory: Path) -> None:
        """Open or create the state; raise StateError when the directory is unusable."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(directory / "exchange.sqlite3", isolation_level=None)
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            # Survives the death of the process, as guaranteed, but not a power failure.
            self._db.execute("PRAGMA synchronous=OFF")
            self._db.executescript(_SCHEMA)
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise StateError(
                    f"state directory {directory} is used by another simulator: stop it, or set "
                    "COINMESH_SIM_STATE_DIR to another directory"
                ) from error
            raise StateError(f"state directory {directory}: {error}") from error
        except (OSError, sqlite3.DatabaseError) as error:
            raise StateError(f"state directory {directory}: {error}") from error
        self._trades: list[tuple[object, ...]] = []
        self._aggregates: list[tuple[int, int, int, int]] = []
        self._levels: dict[tuple[int, int, int], int] = {}
        self._symbols: dict[int, str] = {}
        self._minutes: list[tuple[int, int, str]] = []
        self._meta: dict[str, str] = {}
        self._kept_meta: dict[str, str] = {}

    def close(self) -> None:
        """Commit and close."""
        self.commit()
        self._db.close()

    def meta(self) -> dict[str, Any]:
        """Return all values stored with `set_meta`."""
        return {key: json.loads(value) for key, value in self._db.execute("SELECT * FROM meta")}

    def set_meta(self, **values: object) -> None:
        """Store JSON values with the next commit; unchanged ones are skipped."""
        for key, value in values.items():
            text = json.dumps(value)
            if self._kept_meta.get(key) != text:
                self._kept_meta[key] = self._meta[key] = text

    def symbols(self) -> list[tuple[int, str, dict[str, Any]]]:
        """Return key, name and state of every symbol."""
        rows = self._db.execute("SELECT id, symbol, state FROM symbols ORDER BY id")
        return [(key, symbol, json.loads(state)) for key, symbol, state in rows]

    def add_symbol(self, symbol: str) -> int:
        """Add a symbol and return its key."""
        self.commit()
        cursor = self._db.execute("INSERT INTO symbols (symbol, state) VALUES (?, '{}')", (symbol,))
        if cursor.lastrowid is None:
            raise StateError(f"{symbol} could not be added")
        return cursor.lastrowid

    def forget(self, key: int) -> None:
        """Delete a symbol's trades, book and bars; its name and key stay."""
        self.commit()
        for table in ("levels", "trades", "minutes"):
            self._db.execute(f"DELETE FROM {table} WHERE symbol=?", (key,))  # noqa: S608

    def set_state(self, key: int, state: dict[str, Any]) -> None:
        """Store a symbol's state with the next commit."""
        self._symbols[key] = json.dumps(state)

    def set_level(self, key: int, change: Change) -> None:
        """Store a level with the next commit."""
        self._levels[(key, int(change.side), change.price)] = change.quantity

    def levels(self, key: int) -> Iterator[Change]:
        """Return all stored levels of a symbol."""
        rows = self._db.execute("SELECT side, price, quantity FROM levels WHERE symbol=?", (key,))
        return (Change(Side(side), price, quantity) for side, price, quantity in rows)

    def add_trade(self, key: int, trade: TradeRow) -> None:
        """Store a trade with the next commit; an existing one is unchanged."""
        self._trades.append((key, *trade))

    def set_aggregate(self, key: int, aggregate: int, first: int, last: int) -> None:
        """Assign the trades of an id range to an aggregate with the next commit."""
        self._aggregates.append((aggregate, key, first, last))

    def add_minute(self, key: int, bar: Bar) -> None:
        """Store a closed one-minute bar with the next commit."""
        values = [getattr(bar, name) for name in Bar.__slots__]
        self._minutes.append((key, bar.start, json.dumps(values)))

    def commit(self) -> None:
        """Write the collected changes as one transaction."""
        if not (self._trades or self._levels or self._symbols or self._minutes or self._meta):
            return
        self._db.execute("BEGIN")
        self._run("INSERT OR IGNORE INTO trades VALUES (?,?,?,?,?,?,?)", self._trades)
        self._run(
            "UPDATE trades SET aggregate=? WHERE symbol=? AND id BETWEEN ? AND ?", self._aggregates
        )
        put = [(*place, size) for place, size in self._levels.items() if size]
        gone = [place for place, size in self._levels.items() if not size]
        self._run("INSERT OR REPLACE INTO levels VALUES (?,?,?,?)", put)
        self._run("DELETE FROM levels WHERE symbol=? AND side=? AND price=?", gone)
        states = [(state, key) for key, state in self._symbols.items()]
        self._run("UPDATE symbols SET state=? WHERE id=?", states)
        self._run("INSERT OR REPLACE INTO minutes VALUES (?,?,?)", self._minutes)
        self._run("INSERT OR REPLACE INTO meta VALUES (?,?)", list(self._meta.items()))
        self._db.execute("COMMIT")
        for gathered in (self._trades, self._aggregates, self._minutes):
            gathered.clear()
        for gathered in (self._levels, self._symbols, self._meta):
            gathered.clear()

    def _run(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        if rows:
            self._db.executemany(statement, rows)

    def prune(self, key: int, below: int) -> None:
        """Delete trades with ids below a bound."""
        self._db.execute("DELETE FROM trades WHERE symbol=? AND id<?", (key, below))

    def _select(self, where: str, parameters: Iterable[object]) -> list[TradeRow]:
        self.commit()
        rows = self._db.execute(
            f"SELECT {_TRADE_COLUMNS} FROM trades WHERE symbol=? AND {where}",  # noqa: S608
            tuple(parameters),
        )
        return [TradeRow(row[0], row[1], row[2], row[3], bool(row[4]), row[5]) for row in rows]

    def trades_from(self, key: int, trade_id: int, limit: int) -> list[TradeRow]:
        """Return up to `limit` trades from an id on, oldest first."""
        return self._select("id>=? ORDER BY id LIMIT ?", (key, trade_id, limit))

    def last_trades(self, key: int, limit: int, last: int = MOST) -> list[TradeRow]:
        """Return the newest `limit` trades up to an id, oldest first."""
        return self._select("id<=? ORDER BY id DESC LIMIT ?", (key, last, limit))[::-1]

    def trades_between(self, key: int, start: int, end: int, limit: int = -1) -> list[TradeRow]:
        """Return trades with start <= time < end (µs), oldest first; -1 is no limit."""
        return self._select(
            "time>=? AND time<? ORDER BY time, id LIMIT ?", (key, start, end, limit)
        )

    def aggregates(self, key: int, first: int, limit: int) -> list[TradeRow]:
        """Return the trades of `limit` aggregates from aggregate id `first` on, oldest first."""
        return self._select("aggregate>=? AND aggregate<? ORDER BY id", (key, first, first + limit))

    def trade_count(self, key: int) -> int:
        """Return the number of a symbol's stored trades."""
        self.commit()
        row = self._db.execute("SELECT count(*) FROM trades WHERE symbol=?", (key,)).fetchone()
        return int(row[0])

    def minutes(self, key: int, start: int, end: int) -> list[Bar]:
        """Return closed one-minute bars with start <= bar start < end (µs)."""
        self.commit()
        rows = self._db.execute(
            "SELECT bar FROM minutes WHERE symbol=? AND start>=? AND start<? ORDER BY start",
            (key, start, end),
        )
        return [Bar(*json.loads(row[0])) for row in rows]

    def last_minute(self, key: int, before: int) -> Bar | None:
        """Return the newest closed one-minute bar that starts before a time (µs)."""
        self.commit()
        row = self._db.execute(
            "SELECT bar FROM minutes WHERE symbol=? AND start<? ORDER BY start DESC LIMIT 1",
            (key, before),
        ).fetchone()
        return Bar(*json.loads(row[0])) if row else None

    def first_time(self, key: int, *, seconds: bool) -> int:
        """Return the time (µs) of the oldest trade (`seconds`) or minute; `1 << 62` if none."""
        self.commit()
        column = ("min(time)", "trades") if seconds else ("min(start)", "minutes")
        row = self._db.execute(
            f"SELECT {column[0]} FROM {column[1]} WHERE symbol=?",  # noqa: S608
            (key,),
        ).fetchone()
        return int(row[0]) if row[0] is not None else 1 << 62

    def price_before(self, key: int, time: int) -> int:
        """Return the price of the last trade before a time (µs), 0 when there is none."""
        self.commit()
        row = self._db.execute(
            "SELECT price FROM trades WHERE symbol=? AND time<? "
            "ORDER BY time DESC, id DESC LIMIT 1",
            (key, time),
        ).fetchone()
        return int(row[0]) if row else 0

    def first_aggregate(self, key: int, time: int) -> int:
        """Return the id of the first aggregate at or after a time (µs); `1 << 62` if none."""
        self.commit()
        row = self._db.execute(
            "SELECT aggregate FROM trades WHERE symbol=? AND time>=? ORDER BY time, id LIMIT 1",
            (key, time),
        ).fetchone()
        return int(row[0]) if row else 1 << 62
