from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from unimem_coordinator import MemoryStore, SqliteStore, StoreError
from unimem_coordinator.rows import (
    TABLES,
    CounterRow,
    DomainRow,
    GrantRow,
    NodeRow,
    NodeState,
    PresencePhase,
    PresenceRow,
    RegionPhase,
    RegionRow,
    Row,
    SessionRow,
)
from unimem_coordinator.store import SCHEMA_VERSION, Store

NODE = NodeRow(
    name="n0",
    index=0,
    address="h:1",
    state=NodeState.LOST,
    incarnation=3,
    platform="zynqmp",
    memory_bytes=1 << 36,
    boot_id="ffffffffffffffff",
    replaced_boot_id="",
    lease_token="secret",
    high_water=(1 << 48) - 1,
    auto_named=True,
)
ROWS: list[Row] = [
    CounterRow("epoch", 7),
    NODE,
    DomainRow(1, "ähm", closing=True),
    SessionRow("s", "t", 1, "n0", acknowledged=True),
    RegionRow(1 << 36, 5, "n0", 1, "a 'name\"", RegionPhase.FREEING),
    GrantRow(1 << 36, 2, "n0", 0, 3),
    PresenceRow("n0", 1, "", PresencePhase.CLOSING),
]


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "c.sqlite3")


def test_every_table_is_tested() -> None:
    assert {type(row) for row in ROWS} == set(TABLES)


def test_rows_come_back_as_they_went_in(store: Store) -> None:
    store.commit(ROWS, [])
    found = list(store.load())
    assert found == ROWS
    assert [type(row) for row in found] == [type(row) for row in ROWS]
    assert isinstance(found[1], NodeRow)
    assert found[1].state is NodeState.LOST
    assert found[1].auto_named is True


def test_put_replaces_and_delete_removes(store: Store) -> None:
    store.commit(ROWS, [])
    changed = DomainRow(1, "new")
    store.commit([changed], [NODE, SessionRow("never", "", 0, "")])
    assert list(store.load()) == [ROWS[0], changed, *ROWS[3:]]


def test_sqlite_reopens(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "c.sqlite3"
    first = SqliteStore(path)
    first.commit(ROWS, [])
    first.close()
    first.close()
    second = SqliteStore(path)
    assert list(second.load()) == ROWS
    second.close()
    with pytest.raises(StoreError, match="closed"):
        second.commit([], [])


def test_sqlite_syncs_every_commit(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "c.sqlite3")
    assert store._db is not None
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    store.close()


def test_sqlite_commits_all_or_nothing(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "c.sqlite3")
    store.commit(ROWS, [])
    unstorable = CounterRow("epoch", 1 << 80)
    with pytest.raises(OverflowError):
        store.commit([DomainRow(9, "half"), unstorable], [NODE])
    assert list(store.load()) == ROWS
    store.close()


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite3"
    store = SqliteStore(path)
    script = (
        "import sys, unimem_coordinator.store as s\n"
        "s._BUSY_SECONDS = 0.05\n"
        "try: s.SqliteStore(sys.argv[1])\n"
        "except s.StoreError as e: print(e); sys.exit(3)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3, done.stderr
    assert "another coordinator holds it" in done.stdout
    assert str(path) in done.stdout
    store.close()


def other_version(path: Path) -> None:
    SqliteStore(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    db.close()


def foreign_database(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE photos (id)")
    db.close()


def not_a_database(path: Path) -> None:
    path.write_bytes(b"this is a letter, not a database. " * 100)


def damaged(path: Path) -> None:
    store = SqliteStore(path)
    store.commit([DomainRow(pdid, "x" * 100) for pdid in range(1, 200)], [])
    store.close()
    data = bytearray(path.read_bytes())
    data[4096 + 8 :] = b"\xa5" * len(data[4096 + 8 :])
    path.write_bytes(data)


def damaged_row(path: Path) -> None:
    store = SqliteStore(path)
    store.commit([NODE], [])
    store.close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE nodes SET state = 99")
    db.close()


def a_folder(path: Path) -> None:
    path.mkdir()


def below_a_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.write_text("a file where a folder is needed")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (other_version, f"version {SCHEMA_VERSION + 1}.*reads version {SCHEMA_VERSION}.*move the file away"),
        (foreign_database, "not of a unimem coordinator.*--state"),
        (not_a_database, "damaged, or no database.*backup"),
        (damaged, "damaged, or no database.*backup"),
        (damaged_row, "a row of table nodes: 99"),
        (a_folder, "unable to open.*--state"),
        (below_a_file, "--state"),
    ],
)
def test_a_bad_file_is_named_with_the_way_out(tmp_path: Path, spoil: object, says: str) -> None:
    assert callable(spoil)
    path = tmp_path / "folder" / "c.sqlite3"
    path.parent.mkdir()
    spoil(path)
    with pytest.raises(StoreError, match=f"(?s){says}") as caught:
        list(SqliteStore(path).load())
    assert str(path) in str(caught.value)
