"""`unimem.array` against NumPy, over a loopback port."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from fakes import AsyncLoopbackPort, FakeCluster, LoopbackPort
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from unimem import AsyncClient, Client, GlobalArray, OutOfBounds, UsageError
from unimem._port import Batch, Work

DTYPES = ["u1", "<i2", "<f4", "<c16", ">u4", "M8[ns]", "S3", [("a", "u1"), ("b", "<f8")]]


def client() -> tuple[Client, LoopbackPort]:
    port = LoopbackPort(FakeCluster())
    return Client(port), port  # type: ignore[arg-type]


def numbers(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    kind = np.dtype(dtype)
    n = int(np.prod(shape)) * kind.itemsize
    raw = (np.arange(n) * 7 % 127).astype(np.uint8)
    return raw.view(kind).reshape(shape)


@given(st.data())
def test_any_basic_index_reads_and_writes_as_numpy_does(data: st.DataObject) -> None:
    shape = data.draw(hnp.array_shapes(max_dims=4, max_side=6))
    dtype = data.draw(st.sampled_from(DTYPES))
    key = data.draw(hnp.basic_indices(shape, allow_newaxis=True, allow_ellipsis=True))
    um, _ = client()
    with um:
        a = um.array(shape, dtype)
        mirror = numbers(shape, dtype).copy()
        a[...] = mirror
        wanted, got = mirror[key], a[key]
        assert np.asarray(got).tobytes() == np.asarray(wanted).tobytes()
        assert np.shape(got) == np.shape(wanted)
        value = np.zeros(np.shape(wanted), dtype)
        a[key] = value
        mirror[key] = value
        assert a.read().tobytes() == mirror.tobytes()


def test_contiguous_is_one_get_strided_is_one_batch() -> None:
    um, port = client()
    with um:
        a = um.array((64, 32), "f4")
        port.log.clear()
        a[17], a[3:9], a[...], a[5, 2:7]
        assert [type(w).__mro__[-2] for w in port.log] == [Work] * 4
        assert [w.length for w in port.log if isinstance(w, Work)] == [128, 768, 8192, 20]
        port.log.clear()
        a[:, 3], a[::2], a[::-1, 4:8]
        assert all(isinstance(w, Batch) for w in port.log)
        assert [len(w.requests) for w in port.log if isinstance(w, Batch)] == [64, 32, 64]
        port.log.clear()
        assert a[5:5].shape == (0, 32)
        a[5:5] = 1
        assert not port.log


def test_broadcasting_scalars_and_iteration() -> None:
    um, _ = client()
    with um, um.array((3, 4), "i4") as a:
        a[...] = 5
        a[1] = [1, 2, 3, 4]
        a[:, 0] = np.array([7, 8, 9])
        assert np.asarray(a).tolist() == [[7, 5, 5, 5], [8, 2, 3, 4], [9, 5, 5, 5]]
        assert a[1, 2] == 3
        assert isinstance(a[1, 2], np.int32)
        assert [row.tolist() for row in a] == np.asarray(a).tolist()
        assert (len(a), a.ndim, a.nbytes, a.size) == (3, 2, 48, 12)
        assert a.ptr_to(1, 2) - a.ptr == 24
        with pytest.raises(ValueError, match="without a copy"):
            np.array(a, copy=False)


@pytest.mark.parametrize("key", [[0, 1], np.array([1]), np.array([True, False, True]), True, "name", 1.5])
def test_advanced_indexing_is_refused(key: Any) -> None:
    um, port = client()
    with um:
        a = um.array(3)
        port.log.clear()
        with pytest.raises(UsageError, match="only integers, slices"):
            a[key]
        assert not port.log


def test_bad_indices_values_shapes_and_dtypes() -> None:
    um, _ = client()
    with um:
        a = um.array((4, 4))
        for key in (4, (0, 9), (0, 0, 0), -5):
            with pytest.raises(OutOfBounds):
                a[key]
            with pytest.raises(IndexError):
                a[key] = 1
        with pytest.raises(UsageError, match="into"):
            a[0] = [1, 2]
        for shape in (0, (3, 0), -1, "ab", (1.5,)):
            with pytest.raises(UsageError):
                um.array(shape)  # type: ignore[arg-type]
        for dtype in ("O", "nonsense", "S0"):
            with pytest.raises(UsageError):
                um.array(4, dtype)


def test_too_many_pieces_is_refused_before_anything_is_sent() -> None:
    um, port = client()
    with um:
        a = um.array((65537, 2), "u1")
        port.log.clear()
        with pytest.raises(UsageError, match="65537 pieces of 1 bytes"):
            a[:, 0]
        assert not port.log


def test_long_rows_of_a_strided_selection() -> None:
    um, _ = client()
    with um:
        a = um.array((3, 300_000), "u1")
        mirror = numbers((3, 300_000), "u1")
        a[::2] = mirror[::2]
        assert (a[::2] == mirror[::2]).all()
        assert (a[1] == 0).all()


def test_free_is_idempotent_and_a_freed_array_says_so() -> None:
    um, port = client()
    with um:
        a = um.array(8, name="frames")
        look = um.array_at(a.ptr, (2, 2), "<u2")
        assert isinstance(look, GlobalArray)
        look.free()
        assert len(port.cluster.regions) == 1
        a.free()
        a.free()
        assert not port.cluster.regions
        assert a.freed
        assert "freed" in repr(a)
        with pytest.raises(UsageError, match="'frames' is freed"):
            a[0]
        with pytest.raises(UsageError, match="freed"):
            um.put(a, b"x")


def test_arrays_are_freed_when_the_client_closes_unless_kept() -> None:
    um, port = client()
    with um:
        um.array(8, name="a")
        kept = um.array(8, name="b", keep=True)
    assert [r.gva for r in port.cluster.regions.values()] == [int(kept.ptr)]


def test_the_async_array() -> None:
    async def main() -> None:
        port = AsyncLoopbackPort(FakeCluster())
        async with AsyncClient(port) as um, await um.array((4, 6), "f4") as a:  # type: ignore[arg-type]
            mirror = np.arange(24, dtype="f4").reshape(4, 6)
            await a.write(..., mirror)
            assert ((await a.read()) == mirror).all()
            assert ((await a.read((slice(None), 2))) == mirror[:, 2]).all()
            await a.write((slice(None), 2), 0)
            await a.write(1, 5)
            mirror[:, 2] = 0
            mirror[1] = 5
            assert ((await um.get(a)) == mirror).all()
        assert a.freed
        assert not port.cluster.regions

    asyncio.run(main())
