from __future__ import annotations

import pytest

from unimem_node.mmu.geometry import Geometry, level_shift, start_level


def test_the_kernels_shape() -> None:
    shape = Geometry()
    assert (shape.start_level, shape.page, shape.entries, shape.root_entries) == (0, 4096, 512, 512)
    assert (shape.first, shape.size, shape.txsz) == (0, 1 << 48, 16)
    assert shape.shifts == (39, 30, 21, 12) == tuple(level_shift(level) for level in range(4))


def test_the_upper_half() -> None:
    shape = Geometry(16, 42, upper=True)
    assert (shape.first, shape.first + shape.size) == ((1 << 64) - (1 << 42), 1 << 64)
    assert (shape.start_level, shape.root_entries, shape.root_bytes) == (2, 8192, 65536)


@pytest.mark.parametrize(
    ("granule", "bits", "level"),
    [(12, 48, 0), (12, 40, 0), (12, 39, 1), (12, 30, 2), (14, 48, 0), (14, 47, 1), (14, 25, 3),
     (16, 48, 1), (16, 42, 2), (16, 29, 3)],
)  # fmt: skip
def test_start_levels(granule: int, bits: int, level: int) -> None:
    assert start_level(granule, bits) == Geometry(granule, bits).start_level == level


@pytest.mark.parametrize(
    ("bits", "start", "sl0", "entries"),
    [(40, None, 1, 1024), (43, None, 1, 8192), (44, None, 2, 32), (25, None, 0, 16), (40, 0, 2, 2),
     (34, 2, 0, 8192), (34, 1, 1, 16)],
)  # fmt: skip
def test_stage_2_starts_as_low_as_concatenation_allows(
    bits: int, start: int | None, sl0: int, entries: int
) -> None:
    shape = Geometry(12, bits, stage=2, start=start)
    assert (shape.sl0, shape.root_entries) == (sl0, entries)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"granule_shift": 13}, "granule_shift 13"),
        ({"input_bits": 24}, "input_bits 24"),
        ({"input_bits": 49}, "input_bits 49"),
        ({"stage": 3}, "stage 3"),
        ({"stage": 2, "upper": True}, "stage 2, upper True"),
        ({"start": 1}, "starts at level 0"),
        ({"stage": 2, "start": 1}, "start 1: stage 2 of 48 bits"),
        ({"stage": 2, "start": 3, "input_bits": 25}, "start 3"),
        ({"stage": 2, "start": 0, "granule_shift": 14}, "start 0"),
        ({"stage": 2, "start": 0, "input_bits": 39}, "start 0"),
    ],
)
def test_shapes_that_do_not_exist(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Geometry(**fields)  # type: ignore[arg-type]


def test_groups_need_room_in_the_table() -> None:
    assert [Geometry().group(level) for level in (1, 2, 3)] == [16, 16, 16]
    assert [Geometry(14).group(level) for level in (2, 3)] == [32, 128]
    assert [Geometry(16).group(level) for level in (2, 3)] == [32, 32]
    assert Geometry(12, 33).group(1) == 1
    assert Geometry(12, 34).group(1) == 16
