"""SEND: messages into a mailbox, in the layout of `unimem.wire.MAILBOX`, each exactly once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from support.lossy import LossyNet
from support.rdma import PAGE, Cluster, RdmaSpec
from unimem.wire import MAILBOX, MAILBOX_MAGIC, CompletionFlags, Op, Side, Status, mailbox_slots_at

SPEC = RdmaSpec(block_bytes=4096, frame_payload_bytes=4096, frame_packets=2, peer_bytes=32768)
LOCAL = 0x10_0000


class Box:
    """A mailbox on node 1, written by the CPU there, and a sender on node 0."""

    def __init__(self, cluster: Cluster, slots: int = 4, offset: int = 0x1000) -> None:
        self.cluster, self.slots = cluster, slots
        self.at = cluster.gva(1, offset)
        home, self.far = cluster.nodes[:2]
        home.map(cluster.pdid, LOCAL, PAGE)
        size = mailbox_slots_at(slots) + 64 * slots
        self.far.map(cluster.pdid, self.at & ~(PAGE - 1), size + PAGE)
        self.far.poke(cluster.pdid, self.at, self.header(slots=slots, magic=MAILBOX_MAGIC).tobytes())
        self.sent = 0

    @staticmethod
    def header(**fields: int) -> np.ndarray:
        row = np.zeros(1, MAILBOX)
        for name, value in fields.items():
            row[name] = value
        return row

    def send(self, message: bytes, **fields: int) -> None:
        """Post a SEND of `message`, whose bytes lie at their own place."""
        place = LOCAL + 64 * (self.sent % 64)
        self.cluster.nodes[0].poke(self.cluster.pdid, place, message)
        request = {"wr_id": self.sent, "src": place, "dst": self.at, "length": len(message), **fields}
        self.cluster.post(0, Op.SEND, **request)
        self.sent += 1

    def state(self) -> tuple[int, int]:
        """(head, tail)."""
        row = np.frombuffer(self.far.peek(self.cluster.pdid, self.at, 64), MAILBOX)[0]
        return int(row["head"]), int(row["tail"])

    def message(self, number: int) -> bytes:
        """What lies in the slot of message `number`."""
        slot, pdid = number % self.slots, self.cluster.pdid
        length = self.far.peek(pdid, self.at + 64 + slot, 1)[0]
        return self.far.peek(pdid, self.at + mailbox_slots_at(self.slots) + 64 * slot, length)

    def take(self, count: int) -> list[bytes]:
        """Take messages out, as its owner does."""
        _, tail = self.state()
        taken = [self.message(tail + i) for i in range(count)]
        self.far.poke(self.cluster.pdid, self.at + 8, (tail + count).to_bytes(8, "little"))
        return taken


@pytest.fixture(params=[False, True], ids=["readable", "compiled"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    made = Cluster(2, fast=request.param, spec=SPEC)
    yield made
    made.close()


def test_a_message_of_any_length_lands_in_the_next_slot(cluster: Cluster) -> None:
    box = Box(cluster)
    for turn in range(3):
        messages = [bytes([turn + 1]) * n for n in (1, 17, 63, 64)]
        for message in messages:
            box.send(message)
        rows = cluster.completions(0)
        assert not rows["status"].any()
        assert rows["bytes"].tolist() == [1, 17, 63, 64]
        assert box.state() == (4 * turn + 4, 4 * turn)
        assert box.take(4) == messages


def test_a_full_mailbox_refuses_and_nothing_has_happened(cluster: Cluster) -> None:
    box = Box(cluster, slots=2)
    for message in (b"one", b"two", b"three"):
        box.send(message)
    rows = cluster.completions(0)
    assert rows["status"].tolist() == [Status.OK, Status.OK, Status.MAILBOX_FULL]
    assert rows["flags"][2] & CompletionFlags.DEFINITE
    assert (rows["side"][2], rows["node"][2]) == (Side.TARGET, 1)
    assert box.state() == (2, 0)
    assert box.take(2) == [b"one", b"two"]
    box.send(b"four")
    assert cluster.one(0)["status"] == Status.OK
    assert box.take(1) == [b"four"]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"slots": 4}, Status.MALFORMED),  # no magic
        ({"slots": 0, "magic": MAILBOX_MAGIC}, Status.MALFORMED),
        ({"slots": 65537, "magic": MAILBOX_MAGIC}, Status.MALFORMED),
        ({"slots": 4, "magic": MAILBOX_MAGIC, "head": 3, "tail": 4}, Status.MAILBOX_FULL),  # tail is ahead
    ],
)
def test_what_is_no_mailbox(cluster: Cluster, fields: dict[str, int], status: Status) -> None:
    box = Box(cluster)
    box.far.poke(cluster.pdid, box.at, Box.header(**fields).tobytes())
    before = box.far.peek(cluster.pdid, box.at, 512)
    box.send(b"hello")
    row = cluster.one(0)
    assert row["status"] == status
    assert row["flags"] & CompletionFlags.DEFINITE
    assert box.far.peek(cluster.pdid, box.at, 512) == before


def test_lengths_and_places_that_cannot_be(cluster: Cluster) -> None:
    box = Box(cluster)
    box.send(bytes(64), length=65)
    box.send(b"x", dst=box.at + 4)
    box.send(b"x", dst=8)
    statuses = cluster.completions(0)["status"].tolist()
    assert statuses == [Status.MALFORMED, Status.MISALIGNED, Status.NO_ROUTE]
    assert box.state() == (0, 0)


def test_a_ring_whose_slots_cannot_be_written_keeps_its_head(cluster: Cluster) -> None:
    box = Box(cluster, slots=64)  # the header at the end of a page, the slots on the next ones
    last = box.at + mailbox_slots_at(64) + 64 * 62
    box.far.unmap(cluster.pdid, last & ~(PAGE - 1), PAGE)
    for _ in range(62):
        box.send(b"fits")
    box.send(b"does not")
    rows = cluster.completions(0)
    assert rows["status"][:31].tolist() == [Status.OK] * 31
    assert rows["status"][62] == Status.TRANSLATION_FAULT
    assert rows["flags"][62] & CompletionFlags.DEFINITE
    sent = int((rows["status"] == Status.OK).sum())
    assert box.state() == (sent, 0)


def test_strangers_cannot_send(cluster: Cluster) -> None:
    box = Box(cluster)
    cluster.nodes[0].open(9)
    cluster.nodes[0].share(cluster.pdid, 9, LOCAL, PAGE, write=False)
    box.send(b"hello", pdid=9)
    assert cluster.one(0)["status"] == Status.ACCESS_DENIED
    cluster.nodes[1].open(9)
    box.send(b"hello", pdid=9)
    assert cluster.one(0)["status"] == Status.TRANSLATION_FAULT
    assert box.state() == (0, 0)


@pytest.mark.parametrize("seed", range(12))
def test_each_message_is_there_once(cluster: Cluster, seed: int) -> None:
    box = Box(cluster, slots=64)
    net = LossyNet(cluster, seed, loss=0.1, twice=0.15, reorder=0.25, damage=0.05, breaks=0.01)
    for i in range(60):
        box.send(i.to_bytes(2, "little") * (1 + i % 32))
    rows = net.completions()
    assert rows["wr_id"].tolist() == list(range(60))
    assert not rows["status"].any()
    assert box.state() == (60, 0)
    assert sorted(box.take(60)) == sorted(i.to_bytes(2, "little") * (1 + i % 32) for i in range(60))


@pytest.mark.parametrize("seed", range(6))
def test_a_full_mailbox_stays_right_under_loss(cluster: Cluster, seed: int) -> None:
    """A refusal is remembered, too: a message that was refused does not slip in when there is room again."""
    box = Box(cluster, slots=2)
    net = LossyNet(cluster, seed, loss=0.2, twice=0.3, reorder=0.3)
    for i in range(6):
        box.send(bytes([i + 1]) * 8)
    rows = net.completions()
    well = [int(row["wr_id"]) for row in rows if row["status"] == Status.OK]
    assert sorted(rows["status"].tolist()) == [Status.OK] * 2 + [Status.MAILBOX_FULL] * 4
    assert sorted(box.take(2)) == sorted(bytes([i + 1]) * 8 for i in well)
    net.run()
    assert box.state() == (2, 2)
