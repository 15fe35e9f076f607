from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from unimem_coordinator import MemoryStore, StoreError
from unimem_coordinator.rows import (
    DomainRow,
    GrantRow,
    PresencePhase,
    PresenceRow,
    RegionPhase,
    RegionRow,
    Row,
    SessionRow,
)
from unimem_coordinator.tables import Tables

REGION = RegionRow(0x10_0000_0000, 4096, "n0", 1, "a", RegionPhase.ACTIVE)
ROWS: list[Row] = [
    DomainRow(1, "d"),
    SessionRow("s", "t", 1, "n0"),
    REGION,
    GrantRow(REGION.gva, 2, "n0", 1, 3),
    PresenceRow("n0", 1, "t", PresencePhase.WANTED),
]


class CountingStore(MemoryStore):
    commits = 0
    broken = False

    def commit(self, put: Iterable[Row], delete: Iterable[Row]) -> None:
        if self.broken:
            raise StoreError("disk full")
        self.commits += 1
        super().commit(put, delete)


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


@pytest.fixture
def tables(store: CountingStore) -> Tables:
    tables = Tables(store)
    with tables.change():
        for row in ROWS:
            tables.put(row)
        tables.count("epoch")
    return tables


def everything(tables: Tables) -> dict[str, object]:
    """All state, indexes too, but for the order within them."""
    return {
        name: value for name, value in vars(tables).items() if name not in ("_store", "_changed", "_rows")
    } | {"rows": dict(tables._rows)}


def test_a_change_is_one_commit(store: CountingStore, tables: Tables) -> None:
    assert store.commits == 1
    assert everything(Tables(store)) == everything(tables)


def test_no_change_is_no_commit(store: CountingStore, tables: Tables) -> None:
    with tables.change():
        tables.put(REGION)
        tables.put(DomainRow(9, "for a moment"))
        tables.delete(DomainRow(9, "for a moment"))
    assert store.commits == 1


def test_what_is_written_is_read_at_once(tables: Tables) -> None:
    with tables.change():
        tables.put(replace(REGION, phase=RegionPhase.FREEING))
        assert tables.region_named(1, "a") is None, "a region being freed gives up its name"
        assert tables.regions_of(1)[0].phase is RegionPhase.FREEING
        tables.delete(REGION)
        assert tables.regions_of(1) == []
        assert tables.region_at(REGION.gva) is None


@pytest.mark.parametrize("cause", ["store", "code"])
def test_a_failed_change_leaves_no_trace(store: CountingStore, tables: Tables, cause: str) -> None:
    before = everything(Tables(store))
    store.broken = cause == "store"

    def fail() -> None:
        with tables.change():
            for row in ROWS:
                tables.delete(row)
            tables.put(DomainRow(5, "d"))
            tables.put(replace(REGION, pdid=5))
            tables.put(replace(REGION, name="b"))
            tables.count("epoch")
            if cause == "code":
                raise KeyError

    with pytest.raises(StoreError if cause == "store" else KeyError):
        fail()
    assert everything(tables) == before
    assert tables.domain_named("d") == DomainRow(1, "d")
    store.broken = False
    with tables.change():
        tables.delete(REGION)
    assert REGION.gva not in Tables(store).regions


def test_rows_change_within_a_change_only(tables: Tables) -> None:
    with pytest.raises(AssertionError, match="within"):
        tables.put(REGION)


def test_indexes_forget_what_is_gone(tables: Tables) -> None:
    with tables.change():
        for row in reversed(ROWS):
            tables.delete(row)
    empty = everything(Tables(MemoryStore()))
    now = everything(tables)
    assert {name for name in empty if now[name] != empty[name]} == {"counters", "rows"}


def test_unsettled_rows_are_listed_by_node(tables: Tables) -> None:
    assert list(tables.unsettled) == ["n0"]
    assert {table for table, _ in tables.unsettled["n0"]} == {"grants", "presences"}
    with tables.change():
        tables.put(GrantRow(REGION.gva, 2, "n0", 3, 3))
        tables.put(PresenceRow("n0", 1, "t", PresencePhase.OPEN))
    assert not tables.unsettled


def test_regions_are_found_by_address(tables: Tables) -> None:
    second = RegionRow(REGION.gva + 0x2000, 1, "n0", 1, "", RegionPhase.ACTIVE)
    with tables.change():
        tables.put(second)
    assert tables.region_at(REGION.gva - 1) is None
    assert tables.region_at(REGION.gva + 0x1FFF) == REGION
    assert tables.region_at(second.gva + 99) == second
    assert tables.regions_in(range(REGION.gva, second.gva)) == [REGION]
