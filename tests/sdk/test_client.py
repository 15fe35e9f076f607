"""`unimem.client` and `unimem._core`: the verbs on a loopback port."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from fakes import FakeCluster, LoopbackPort

from unimem import (
    ACCEPTED,
    SOURCE,
    Client,
    NameTaken,
    NoRoute,
    NoSpace,
    OutOfBounds,
    PermissionFault,
    Rights,
    TranslationFault,
    UnknownNode,
    UnknownRegion,
    UsageError,
)
from unimem._port import Batch, Work
from unimem.wire import WorkFlags


@pytest.fixture
def port() -> LoopbackPort:
    return LoopbackPort(FakeCluster())


@pytest.fixture
def um(port: LoopbackPort) -> Any:
    with Client(port) as client:  # type: ignore[arg-type]
        yield client


# -- bytes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"12345678",
        bytearray(b"12345678"),
        memoryview(b"12345678"),
        np.arange(8, dtype="u1"),
        np.arange(4, dtype=">u2"),
        np.arange(4, dtype="f2").reshape(2, 2),
        np.array(["2026-11-22"], dtype="M8[D]"),
        np.array([(1, 2)], dtype=[("a", "<u4"), ("b", "<u4")]),
        np.float64(2.5),
        np.array(7, dtype="u8"),
        (ctypes.c_uint32 * 2)(1, 2),
    ],
    ids=lambda d: f"{type(d).__name__}-{getattr(d, 'dtype', '')}",
)
def test_put_takes_any_buffer(um: Client, data: Any) -> None:
    p = um.alloc(64)
    um.put(p + 3, data)
    wanted = data.tobytes() if hasattr(data, "tobytes") else bytes(data)
    assert um.get(p + 3, 8).tobytes() == wanted
    assert um.get(p, 3).tobytes() == bytes(3)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.arange(8)[::2], "not C-contiguous"),
        (np.arange(6, dtype=">u2").reshape(2, 3).T, "not C-contiguous"),
        (b"", "zero bytes"),
        (np.empty((0, 3)), "zero bytes"),
        ("text", "str has no buffer"),
        (7, "int has no buffer"),
        (None, "NoneType has no buffer"),
        (np.array([object()]), "Python objects"),
    ],
)
def test_put_refuses_what_has_no_flat_bytes(um: Client, port: LoopbackPort, data: Any, words: str) -> None:
    p = um.alloc(64)
    with pytest.raises(UsageError, match=words) as caught:
        um.put(p, data)
    assert caught.value.op == "put"
    assert caught.value.definite
    assert not port.log


def test_get_shapes(um: Client) -> None:
    p = um.alloc(64)
    um.put(p, np.arange(8, dtype="<u8"))
    assert um.get(p, 16, dtype="<u8").tolist() == [0, 1]
    out = np.empty((2, 2), "<u8")
    assert um.get(p + 8, out=out) is out
    assert out.tolist() == [[1, 2], [3, 4]]
    part = bytearray(b"x" * 8)
    um.get(p, 4, out=part)
    assert part == bytes(4) + b"xxxx"
    a = um.array_at(p, (2, 4), "<u8")
    assert um.get(a).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert um.get(a, dtype="u1").shape == (64,)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "how many bytes"),
        ({"n": 0}, "at least 1 byte"),
        ({"n": -1}, "at least 1 byte"),
        ({"n": 1.5}, "not an integer"),
        ({"n": 65}, "only 64 are left"),
        ({"n": 1 << 60}, "only 64 are left"),
        ({"n": 9, "out": bytearray(8)}, "into out="),
        ({"out": bytearray(8), "dtype": "u8"}, "into out="),
        ({"out": bytes(8)}, "read-only"),
        ({"out": np.zeros((4, 4))[:, 0]}, "not C-contiguous"),
        ({"n": 7, "dtype": "u8"}, "7 bytes as"),
        ({"n": 8, "timeout": 0}, "seconds above 0"),
        ({"n": 8, "timeout": float("nan")}, "seconds above 0"),
    ],
)
def test_get_refuses(um: Client, port: LoopbackPort, arguments: dict[str, Any], words: str) -> None:
    p = um.alloc(64)
    with pytest.raises(UsageError, match=words):
        um.get(p, **arguments)
    assert not port.log


@pytest.mark.parametrize("where", [0, -8, (1 << 36) - 1, 1 << 48, 1 << 64, "0x10", 1.0, None, np.arange(3)])
def test_bad_addresses_are_refused_locally(um: Client, port: LoopbackPort, where: Any) -> None:
    for call in (
        lambda: um.put(where, b"12345678"),
        lambda: um.get(where, 8),
        lambda: um.fetch_add(where),
        lambda: um.copy(where, um.alloc(64), 8),
        lambda: um.free(where),
        lambda: um.resolve(where),
    ):
        with pytest.raises(UsageError):
            call()
    assert not port.log


def test_the_end_of_the_address_space(um: Client) -> None:
    with pytest.raises(UsageError, match="run past the end"):
        um.put((1 << 48) - 4, b"12345")
    with pytest.raises(TranslationFault):
        um.put((1 << 48) - 5, b"12345")


def test_every_verb_respects_the_bounds(um: Client, port: LoopbackPort) -> None:
    p = um.alloc(64)
    for call in (
        lambda: um.put(p + 60, b"12345"),
        lambda: um.get(p + 60, 5),
        lambda: um.fetch_add(p + 64),
        lambda: um.copy(p, p + 1, 64),
        lambda: um.copy(p + 1, p, 64),
        lambda: um.put_async(p + 60, b"12345"),
        lambda: um.put_signal(p, b"1", p + 64),
    ):
        with pytest.raises(OutOfBounds):
            call()
    assert not port.log


def test_an_integer_a_pointer_and_an_array_are_addresses(um: Client) -> None:
    a = um.array(8, node="n1")
    um.put(int(a.ptr), b"1")
    um.put(np.uint64(int(a.ptr) + 1), b"2")
    um.put(a.ptr + 2, b"3")
    assert um.get(a, 3).tobytes() == b"123"
    um.put(a, b"456")
    assert um.get(int(a.ptr), 3).tobytes() == b"456"


def test_atomics(um: Client) -> None:
    p = um.alloc(16)
    assert um.fetch_add(p, 5) == 0
    assert um.fetch_add(p, -6) == 5
    assert um.fetch_add(p) == 2**64 - 1
    assert um.swap(p, 7) == 0
    assert um.compare_swap(p, 8, 9) == 7
    assert um.compare_swap(p, 7, -1) == 7
    assert um.get(p, 8, dtype="<i8").tolist() == [-1]
    with pytest.raises(UsageError, match="multiple of 8"):
        um.fetch_add(p + 4)
    for value in (1 << 64, -(1 << 63) - 1, 1.5, "1"):
        with pytest.raises(UsageError):
            um.swap(p, value)  # type: ignore[arg-type]


def test_copy_is_posted_to_the_source_s_node(um: Client, port: LoopbackPort) -> None:
    src, dst = um.alloc(4096, node="n2"), um.alloc(4096, node="n1")
    um.put(src, b"hello")
    um.copy(dst, src, 5)
    um.copy(src + 8, dst, 5)
    um.copy(um.alloc(8), um.alloc(8), 8)  # both at home
    assert um.get(dst, 5).tobytes() == b"hello"
    assert [w.node for w in port.log if isinstance(w, Work) and w.src and w.dst] == ["n2", "n1", None]
    assert all(w.data is None for w in port.log if isinstance(w, Work) and w.src and w.dst)


def test_copy_from_a_bare_address_asks_for_the_nodes_once(port: LoopbackPort) -> None:
    with Client(port) as first:  # type: ignore[arg-type]
        src = int(first.alloc(8, node="n3"))
        other = Client(port)  # type: ignore[arg-type]
        other.copy(src, src, 8)
        other.copy(src, src, 8)
        assert port.cluster.calls.count("ListNodes") == 1
        with pytest.raises(NoRoute):
            other.copy(src, 0x700_0000_0000, 8)
        other._closed = True


def test_faults_name_the_node_and_the_address(um: Client, port: LoopbackPort) -> None:
    um.nodes()
    p = um.alloc(8, node="n2")
    um.free(p)
    with pytest.raises(TranslationFault) as caught:
        um.put(p, b"x")
    assert (caught.value.gva, caught.value.node, caught.value.definite) == (int(p), "n2", True)
    with Client(LoopbackPort(port.cluster)) as stranger:  # type: ignore[arg-type]
        mine = um.alloc(8)
        um.share(mine, pdid=stranger.pdid, rights="r")
        assert stranger.get(mine, 8).tobytes() == bytes(8)
        with pytest.raises(PermissionFault, match="write refused"):
            stranger.put(mine, b"x")


def test_accepted_is_asked_of_the_node(um: Client, port: LoopbackPort) -> None:
    p = um.alloc(8)
    port.log.clear()
    um.put(p, b"1")
    um.put(p, b"2", at=ACCEPTED)
    um.put_async(p, b"3", at=ACCEPTED).result()
    um.copy(p, p, 1, at=ACCEPTED)
    um.copy_async(p, p, 1, at=SOURCE).result()
    flags = [work.flags for work in port.log if isinstance(work, Work)]
    assert flags == [0, *[WorkFlags.ACCEPTED] * 4]
    for at in (9, "soon"):
        with pytest.raises(UsageError, match="choose SOURCE"):
            um.put(p, b"3", at=at)  # type: ignore[arg-type]


def test_at_source_the_buffer_is_free_and_flush_tells_the_rest() -> None:
    port = LoopbackPort(FakeCluster(), deferred=True)
    with Client(port) as um:  # type: ignore[arg-type]
        p = um.alloc(64)
        data = bytearray(b"first")
        um.put(p, data, at=SOURCE)
        data[:] = b"other"
        t = um.put_async(p + 8, data, at=SOURCE)
        data[:] = b"third"
        assert t.done()
        assert t.result() is None
        assert len(port.queue) == 2
        um.flush()
        assert um.get(p, 16).tobytes() == b"first\0\0\0other\0\0\0"
        um.put(0x700_0000_0000, b"x", at=SOURCE)
        with pytest.raises(ExceptionGroup) as caught:
            um.flush()
        assert isinstance(caught.value.exceptions[0], TranslationFault)


def test_what_fails_after_source_and_is_never_flushed_is_reported() -> None:
    um = Client(LoopbackPort(FakeCluster()))  # type: ignore[arg-type]
    um.put(um.alloc(8), b"well", at=SOURCE)
    um.put(0x700_0000_0000, b"x", at=SOURCE)
    with pytest.warns(ResourceWarning, match="it failed: put at 0x700") as caught:
        um.close()
    assert len(caught) == 1
    assert caught[0].filename == __file__


@pytest.mark.parametrize(("width", "ones"), [(4, 0xFFFF_FFFF), (8, 0xFFFF_FFFF_FFFF_FFFF)])
def test_atomics_of_either_width(um: Client, width: int, ones: int) -> None:
    p = um.alloc(16)
    um.put(p, b"\xff" * 16)
    where = p + width
    assert um.fetch_add(where, 2, width=width) == ones  # wraps, and leaves its neighbours alone
    assert um.compare_swap(where, 1, 7, width=width) == 1
    assert um.swap(where, -1, width=width) == 7
    with um.batch() as b:
        old = b.swap(where, 3, width=width)
    assert old.result() == ones
    assert um.get(p, 16).tobytes() == (3).to_bytes(width, "little").join(
        (b"\xff" * width, b"\xff" * (16 - 2 * width))
    )


def test_a_word_has_its_place_and_size(um: Client) -> None:
    p = um.alloc(16)
    um.fetch_add(p + 4, width=4)
    with pytest.raises(UsageError, match="a multiple of 8"):
        um.fetch_add(p + 4)
    with pytest.raises(UsageError, match="a multiple of 4"):
        um.swap(p + 2, 1, width=4)
    with pytest.raises(UsageError, match="4 or 8 bytes"):
        um.swap(p, 1, width=2)
    with pytest.raises(UsageError, match="does not fit in 32 bits"):
        um.compare_swap(p, 1, 1 << 32, width=4)


def test_only_a_deadline_that_was_asked_for_travels_into_a_simulation(um: Client, port: LoopbackPort) -> None:
    p = um.alloc(8)
    port.log.clear()
    um.put(p, b"x")
    um.put(p, b"x", timeout=1.5)
    um.put_async(p, b"x").result()
    um.put_async(p, b"x", timeout=2).result()
    um.put(p, b"x", timeout=float("inf"))
    um.put_many([int(p)], np.ones(1, "u8"), timeout=3)
    sent = [int(w.requests["deadline_us"][0]) if isinstance(w, Batch) else w.deadline for w in port.log]
    assert sent == [0, 1_500_000, 0, 2_000_000, 0, 3_000_000]
    port.background = True  # type: ignore[misc]
    port.log.clear()
    um.put(p, b"x")
    um.put(p, b"x", timeout=0.1)
    assert [w.deadline for w in port.log if isinstance(w, Work)] == [4_950_000, 75_000]


# -- many -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(100,), (100, 3), (100, 8)])
def test_put_many_and_get_many(um: Client, port: LoopbackPort, shape: tuple[int, ...]) -> None:
    p = um.alloc(8192, node="n1")
    values = np.arange(int(np.prod(shape)), dtype="u1" if len(shape) == 2 else "<u8").reshape(shape)
    n = values.nbytes // 100
    gvas = int(p) + np.random.default_rng(0).permutation(100) * 64
    um.put_many(gvas, values)
    assert isinstance(port.log[-1], Batch)
    assert um.get_many(gvas, n).tobytes() == values.tobytes()


def test_put_many_reports_the_first_failures_and_counts_all(um: Client) -> None:
    p = um.alloc(4096)
    gvas = int(p) + 256 * np.arange(64, dtype=np.uint64)
    with pytest.raises(
        ExceptionGroup, match="48 of 64 operations of put_many failed; the first 16"
    ) as caught:
        um.put_many(gvas, np.ones(64, "u8"))
    assert len(caught.value.exceptions) == 16
    first = caught.value.exceptions[0]
    assert isinstance(first, TranslationFault)
    assert first.gva == int(p) + 4096
    assert um.get_many(gvas[:16], 8).view("u8").reshape(-1).tolist() == [1] * 16


@pytest.mark.parametrize(
    ("gvas", "values"),
    [
        ([1 << 36, 5], [1, 2]),
        ([1 << 36, -5], [1, 2]),
        ([1 << 36], [1, 2]),
        ([], []),
        ([[1 << 36]], [1]),
        ([1.5], [1]),
        ([1 << 36], np.zeros((1, 300_000))),
        ([(1 << 48) - 4], [1]),
        ([1 << 36], [object()]),
    ],
)
def test_put_many_refuses(um: Client, port: LoopbackPort, gvas: Any, values: Any) -> None:
    with pytest.raises(UsageError):
        um.put_many(gvas, values)
    assert not port.log


# -- control ----------------------------------------------------------------------------------------------


def test_regions_nodes_and_rights(um: Client) -> None:
    nodes = um.nodes()
    assert [n.name for n in nodes] == ["n0", "n1", "n2", "n3"]
    assert nodes[2].window == range(3 << 36, 4 << 36)
    assert nodes[0].state == "up"
    p = um.alloc(100, node="n2", name="frames")
    (region,) = um.regions(node="n2")
    assert region.ptr == p
    assert (region.name, region.length, region.state) == ("frames", 100, "active")
    found = um.resolve(int(p) + 10)
    assert found.node.name == "n2"
    assert found.ptr == p + 10
    assert found.pdid == um.pdid
    assert um.pointer(int(p) + 4) == p + 4
    shared = um.share(region, pdid=99, rights="rw")
    assert shared.grants[0].rights == Rights.READ_WRITE
    assert um.share(p, pdid=99, rights=None).grants[0].rights == Rights.NONE
    um.free(region)
    assert um.regions() == []
    assert um.reachability() == dict.fromkeys(("n0", "n1", "n2", "n3"), "simulated")
    assert um.reachability("n1") == {"n1": "simulated"}


def test_refusals_become_errors(um: Client) -> None:
    with pytest.raises(UnknownNode, match="'zz'"):
        um.alloc(8, node="zz")
    with pytest.raises(NoSpace):
        um.alloc(2 << 30)
    um.alloc(8, name="a")
    with pytest.raises(NameTaken):
        um.alloc(8, name="a")
    p = um.alloc(8192)
    with pytest.raises(UnknownRegion):
        um.free(p + 4096)
    um.free(p)
    with pytest.raises(UnknownRegion):
        um.free(p)
    with pytest.raises(UnknownRegion):
        um.resolve(p)


@pytest.mark.parametrize("length", [0, -1, 1 << 48, 1.5, "8", None])
def test_bad_lengths(um: Client, length: Any) -> None:
    with pytest.raises(UsageError):
        um.alloc(length)


def test_share_wants_one_partner_and_known_rights(um: Client) -> None:
    p = um.alloc(8)
    for arguments in ({}, {"domain": "a", "pdid": 3}, {"pdid": 0}, {"pdid": 70000}, {"domain": 5}):
        with pytest.raises(UsageError):
            um.share(p, **arguments)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match='"r", "w", "rw"'):
        um.share(p, pdid=3, rights="x")
