"""WRITE with SIGNAL: who sees the signal sees the data, and a write that is refused signals nothing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from support.lossy import LossyNet
from support.rdma import PAGE, Cluster, RdmaSpec
from unimem.wire import CompletionFlags, Op, Status, WorkFlags

SPEC = RdmaSpec(block_bytes=4096, frame_payload_bytes=4096, frame_packets=1, peer_bytes=65536)
LOCAL, BYTES = 0x10_0000, 6 * PAGE
SIGNAL = int(WorkFlags.SIGNAL)


@pytest.fixture(params=[False, True], ids=["readable", "compiled"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    made = Cluster(2, fast=request.param, spec=SPEC)
    made.nodes[0].map(made.pdid, LOCAL, BYTES)
    made.nodes[0].poke(made.pdid, LOCAL, pattern())
    made.nodes[1].map(made.pdid, made.gva(1), BYTES + PAGE)
    yield made
    made.close()


def pattern() -> bytes:
    return np.random.default_rng(3).integers(0, 256, BYTES, np.uint8).tobytes()


def put(cluster: Cluster, n: int = BYTES, value: int = 7, **fields: int) -> None:
    request = {
        "src": LOCAL,
        "dst": cluster.gva(1),
        "length": n,
        "flags": SIGNAL,
        "operand": value,
        "compare": cluster.gva(1, BYTES),
        **fields,
    }
    cluster.post(0, Op.WRITE, **request)


def word(cluster: Cluster) -> int:
    return int.from_bytes(cluster.nodes[1].peek(cluster.pdid, cluster.gva(1, BYTES), 8), "little")


def test_one_request_one_completion(cluster: Cluster) -> None:
    put(cluster, wr_id=5, value=(1 << 64) - 2)
    row = cluster.one(0)
    assert (row["wr_id"], row["status"], row["op"], row["bytes"]) == (5, Status.OK, Op.WRITE, BYTES)
    assert row["parts_ps"].sum() == row["done_ps"] - row["posted_ps"]
    assert cluster.nodes[1].peek(cluster.pdid, cluster.gva(1), BYTES) == pattern()
    assert word(cluster) == (1 << 64) - 2


def test_data_and_signal_leave_without_waiting_for_an_answer(cluster: Cluster) -> None:
    put(cluster, 64)
    home = cluster.nodes[0]
    home.pump()
    frames = home.take_frames()
    assert sum(len(frame) for _, frame in frames) > 0
    for _, frame in frames:
        cluster.nodes[1].on_frame(0, frame)
    assert word(cluster) == 7


@pytest.mark.parametrize("page", range(6))
def test_data_refused_anywhere_signals_nothing(cluster: Cluster, page: int) -> None:
    cluster.nodes[1].unmap(cluster.pdid, cluster.gva(1, page * PAGE), PAGE)
    put(cluster)
    row = cluster.one(0)
    assert row["status"] == Status.TRANSLATION_FAULT
    assert row["iova"] == cluster.gva(1, page * PAGE)
    assert word(cluster) == 0


def test_data_refused_at_its_source_signals_nothing(cluster: Cluster) -> None:
    cluster.nodes[0].unmap(cluster.pdid, LOCAL + 3 * PAGE, PAGE)
    put(cluster)
    assert cluster.one(0)["status"] == Status.TRANSLATION_FAULT
    assert word(cluster) == 0


def test_a_word_that_cannot_be_written_is_the_write_s_failure(cluster: Cluster) -> None:
    cluster.nodes[1].unmap(cluster.pdid, cluster.gva(1, BYTES), PAGE)
    put(cluster, 64)
    row = cluster.one(0)
    assert row["status"] == Status.TRANSLATION_FAULT
    assert row["iova"] == cluster.gva(1, BYTES)
    assert not row["flags"] & CompletionFlags.DEFINITE  # the data is there


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"compare": 0x40}, Status.MALFORMED),
        ({"compare": 0x20_0000_0000 + BYTES + 4}, Status.MISALIGNED),
        ({"compare": 0x10_0000_0000}, Status.MALFORMED),  # on another node
    ],
)
def test_words_that_cannot_be(cluster: Cluster, fields: dict[str, int], status: Status) -> None:
    put(cluster, 64, **fields)
    row = cluster.one(0)
    assert row["status"] == status
    assert row["flags"] & CompletionFlags.DEFINITE


@pytest.mark.parametrize("op", [Op.READ, Op.SWAP, Op.SEND, Op.COPY])
def test_only_a_write_signals(cluster: Cluster, op: Op) -> None:
    put_as = {"src": LOCAL, "dst": cluster.gva(1), "length": 8, "flags": SIGNAL}
    if op in (Op.READ, Op.COPY):
        put_as |= {"src": cluster.gva(1), "dst": LOCAL}
    cluster.post(0, op, **put_as)
    assert cluster.one(0)["status"] == Status.MALFORMED


@pytest.mark.parametrize("seed", range(16))
def test_who_sees_the_signal_sees_the_data(cluster: Cluster, seed: int) -> None:
    """At every frame that arrives, in whatever order, however often."""
    net = LossyNet(cluster, seed, loss=0.1, twice=0.2, reorder=0.5, damage=0.03, breaks=0.01)
    far, checked = cluster.nodes[1], 0
    arrive = far.ni.on_frame

    def on_frame(peer: int, frame: np.ndarray) -> None:
        nonlocal checked
        arrive(peer, frame)
        if word(cluster):
            checked += 1
            assert far.peek(cluster.pdid, cluster.gva(1), BYTES) == pattern()

    far.on_frame = on_frame  # type: ignore[method-assign]
    put(cluster)
    (row,) = net.completions()
    assert row["status"] == Status.OK
    assert word(cluster) == 7
    assert checked


@pytest.mark.parametrize("seed", range(16))
def test_a_refused_write_signals_nothing_under_loss(cluster: Cluster, seed: int) -> None:
    page = seed % 6
    cluster.nodes[1].unmap(cluster.pdid, cluster.gva(1, page * PAGE), PAGE)
    net = LossyNet(cluster, seed, loss=0.15, twice=0.3, reorder=0.5)
    put(cluster, wr_id=1)
    put(
        cluster,
        64,
        wr_id=2,
        value=9,
        dst=cluster.gva(1, (page + 1) % 6 * PAGE),
        compare=cluster.gva(1, BYTES + 8),
    )
    rows = net.completions()
    assert rows["status"].tolist() == [Status.TRANSLATION_FAULT, Status.OK]
    assert word(cluster) == 0
    net.run()
    assert word(cluster) == 0
