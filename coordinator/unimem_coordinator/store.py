"""Where the coordinator's rows live: in memory for simulations, in one SQLite file for a service.

A store does two things: `load` everything, and `commit` a set of changes, all of them or none. What `commit`
has returned from survives the process, and with `SqliteStore` a power failure: WAL with ``synchronous=FULL``
syncs the log at every commit. ``NORMAL`` would do so only at checkpoints: a power failure could then take
back an address that a client already uses, and have it given to somebody else. A commit costs one sync (about
a millisecond on an SSD); leases and renewals are not stored, so only changes pay.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, Protocol, get_type_hints

from unimem_coordinator.errors import StoreError
from unimem_coordinator.rows import TABLES, Key, Row

#: `PRAGMA application_id` of our files: "unim".
APPLICATION_ID: Final = 0x756E_696D

#: `PRAGMA user_version`: grows with each change of the tables.
SCHEMA_VERSION: Final = 1

#: How long we wait for another process to let go of the file: a coordinator being replaced is on its way out.
_BUSY_SECONDS: Final = 2.0


class Store(Protocol):
    """What the core needs of a store."""

    def load(self) -> Iterable[Row]:
        """Every row, table by table in the order of `TABLES`."""

    def commit(self, put: Iterable[Row], delete: Iterable[Row]) -> None:
        """Insert or replace, and remove, rows: all or nothing, durable on return. Raises `StoreError`."""

    def close(self) -> None:
        """Let go of what the store holds. Idempotent."""


class MemoryStore:
    """Rows in dictionaries: for simulations, and for tests, where it stands in for a disk."""

    def __init__(self) -> None:
        self._tables: dict[str, dict[Key, Row]] = {row_type.TABLE: {} for row_type in TABLES}

    def load(self) -> Iterator[Row]:
        """See `Store`."""
        for row_type in TABLES:
            yield from list(self._tables[row_type.TABLE].values())

    def commit(self, put: Iterable[Row], delete: Iterable[Row]) -> None:
        """See `Store`."""
        for row in delete:
            self._tables[row.TABLE].pop(row.key, None)
        for row in put:
            self._tables[row.TABLE][row.key] = row

    def close(self) -> None:
        """Nothing to let go of: the rows stay for the next core."""


class SqliteStore:
    """Rows in one SQLite file in WAL mode, held exclusively: a second coordinator on it is refused.

    Raises `StoreError` when the file cannot be made, is no database of ours, is of another version, is
    damaged, or is held by another process.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._shapes = [_Shape(row_type) for row_type in TABLES]
        self._by_table = {shape.table: shape for shape in self._shapes}
        self._db: sqlite3.Connection | None = None
        with self._explained():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # One thread at a time uses it, not always the same one.
            self._db = sqlite3.connect(
                self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                self._open(self._db)
            except BaseException:
                self.close()
                raise

    def load(self) -> Iterator[Row]:
        """See `Store`."""
        with self._explained():
            db = self._connection()
            rows = [shape.row(values) for shape in self._shapes for values in db.execute(shape.select)]
        yield from rows

    def commit(self, put: Iterable[Row], delete: Iterable[Row]) -> None:
        """See `Store`."""
        with self._explained():
            db = self._connection()
            db.execute("BEGIN IMMEDIATE")
            try:
                for row in delete:
                    db.execute(self._by_table[row.TABLE].delete, row.key)
                for row in put:
                    shape = self._by_table[row.TABLE]
                    db.execute(shape.upsert, shape.values(row))
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """See `Store`. The log is folded into the file."""
        db, self._db = self._db, None
        if db is not None:
            db.close()

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise StoreError(f"coordinator state {self.path} is closed")
        return self._db

    def _open(self, db: sqlite3.Connection) -> None:
        db.execute("PRAGMA locking_mode=EXCLUSIVE")
        application, version = _pragma(db, "application_id"), _pragma(db, "user_version")
        empty = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        if application != APPLICATION_ID and not (empty and application == 0):
            raise StoreError(
                f"{self.path} is an SQLite database, but not of a unimem coordinator"
                f" (application_id {application:#x}): give another path with --state"
            )
        if not empty and version != SCHEMA_VERSION:
            raise StoreError(
                f"{self.path} has coordinator state of version {version}, this coordinator reads version"
                f" {SCHEMA_VERSION}: run the unimem version that wrote it, or move the file away to start"
                " with an empty address space"
            )
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        # The first write takes the lock for as long as the file is open.
        db.execute("BEGIN IMMEDIATE")
        try:
            if empty:
                db.execute(f"PRAGMA application_id={APPLICATION_ID}")
                db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
                for shape in self._shapes:
                    db.execute(shape.create)
            verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what SQLite and the file system say into an error that names the file and the way out."""
        try:
            yield
        except sqlite3.OperationalError as error:
            text = str(error)
            if "locked" in text or "busy" in text:
                way_out = "another coordinator holds it: stop that one, or give another path with --state"
            elif "full" in text:
                way_out = "make room on its file system"
            else:
                way_out = "check that its folder exists and can be written, or give another path with --state"
            raise StoreError(f"cannot use coordinator state {self.path}: {text}; {way_out}") from error
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise StoreError(
                f"coordinator state {self.path} is damaged, or no database at all: {error}; restore it from a"
                " backup, or move it away to start with an empty address space (all regions are then lost)"
            ) from error
        except OSError as error:
            raise StoreError(
                f"cannot use coordinator state {self.path}: {error.strerror or error}; give a path that"
                " can be written with --state"
            ) from error


def _pragma(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])


class _Shape:
    """The SQL of one table, made from its dataclass."""

    def __init__(self, row_type: type[Row]) -> None:
        hints = get_type_hints(row_type)
        self._row_type = row_type
        self._types = {f.name: hints[f.name] for f in fields(row_type)}
        self.table = row_type.TABLE
        columns = ", ".join(f'"{name}"' for name in self._types)
        types = ", ".join(
            f'"{name}" {"TEXT" if kind is str else "INTEGER"} NOT NULL' for name, kind in self._types.items()
        )
        key = ", ".join(f'"{name}"' for name in row_type.KEY)
        where = " AND ".join(f'"{name}" = ?' for name in row_type.KEY)
        marks = ", ".join("?" * len(self._types))
        self.create = f'CREATE TABLE "{self.table}" ({types}, PRIMARY KEY ({key})) WITHOUT ROWID'
        self.select = f'SELECT {columns} FROM "{self.table}" ORDER BY {key}'
        self.upsert = f'INSERT OR REPLACE INTO "{self.table}" ({columns}) VALUES ({marks})'
        self.delete = f'DELETE FROM "{self.table}" WHERE {where}'

    def values(self, row: Row) -> tuple[Any, ...]:
        """What to bind for `row`."""
        return tuple(getattr(row, name) for name in self._types)

    def row(self, values: tuple[Any, ...]) -> Row:
        """The row made from a result of `select`; a value that fits no column is damage."""
        try:
            return self._row_type(*(kind(v) for kind, v in zip(self._types.values(), values, strict=True)))
        except (TypeError, ValueError) as error:
            raise sqlite3.DatabaseError(f"a row of table {self.table}: {error}") from error
