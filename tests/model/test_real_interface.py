"""Every schedule of a few frames through the real interface: exactly once, whatever the network does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from schedules import Pair, all_schedules

from support.rdma import PAGE, work
from unimem.wire import MAILBOX, MAILBOX_MAGIC, Op, Status, WorkFlags, mailbox_slots_at
from unimem_node.fabric.packets import Frame
from unimem_node.fabric.retransmit import Retransmit
from unimem_node.fabric.target import Target

LOCAL, BYTES = 0x10_0000, 3 * 64


class Checked:
    """A pair of nodes on which workloads run one after the other, and what they must leave behind."""

    def __init__(self) -> None:
        self.pair = Pair()
        self.home, self.far = self.pair.nodes
        self.pdid = self.pair.cluster.pdid
        self.gva = self.pair.cluster.gva(1, 0x10_0000)
        self.home.map(self.pdid, LOCAL, PAGE)
        self.far.map(self.pdid, self.gva, PAGE)
        self.back = self.pair.cluster.gva(0, 0x10_0000)
        self.home.map(self.pdid, self.back, PAGE)
        header = np.zeros(1, MAILBOX)
        header["slots"], header["magic"] = SLOTS, MAILBOX_MAGIC
        self.box = self.gva + 2048
        self.far.poke(self.pdid, self.box, header.tobytes())
        self.messages = 0
        self.round = 0
        self.counter = 0

    def run(self, requests: list[np.ndarray], schedule: dict[int, str]) -> np.ndarray:
        """Post, play; the completions in the order of the requests, all of them OK."""
        self.round += 1
        self.far.poke(self.pdid, self.gva, bytes(BYTES))
        self.home.poke(self.pdid, LOCAL, self.pattern())
        rows: list[np.ndarray] = []

        def over() -> bool:
            rows.append(self.home.ni.take_completions())
            return sum(map(len, rows)) >= len(requests)

        for i, request in enumerate(requests):
            request["wr_id"], request["pdid"] = i, self.pdid
            self.home.ni.post(request)
        self.pair.play(schedule, over)
        rows.append(self.home.ni.take_completions())
        done = np.concatenate(rows)
        assert sorted(done["wr_id"]) == list(range(len(requests))), "a completion is missing, or there twice"
        done = done[np.argsort(done["wr_id"])]
        assert (done["status"] == Status.OK).all(), [Status(s).name for s in done["status"]]
        assert self.home.ni.idle
        return done

    def pattern(self) -> bytes:
        """Bytes of this round."""
        return np.random.default_rng(self.round).integers(0, 256, BYTES, np.uint8).tobytes()


def three_blocks(it: Checked, schedule: dict[int, str]) -> None:
    """One WRITE of three blocks."""
    it.run([work(Op.WRITE, length=BYTES, src=LOCAL, dst=it.gva)], schedule)
    assert it.far.peek(it.pdid, it.gva, BYTES) == it.pattern()


def three_atomics(it: Checked, schedule: dict[int, str]) -> None:
    """Three FETCH_ADDs of one word: each value is found once."""
    at = it.gva + BYTES
    done = it.run([work(Op.FETCH_ADD, dst=at, length=8, operand=1) for _ in range(3)], schedule)
    assert sorted(done["value"].tolist()) == [it.counter, it.counter + 1, it.counter + 2]
    it.counter += 3
    assert it.far.peek(it.pdid, at, 8) == it.counter.to_bytes(8, "little")


def a_mixture(it: Checked, schedule: dict[int, str]) -> None:
    """A WRITE, an atomic of 4 bytes beside it, a READ back."""
    at, there = it.gva + BYTES + 64, LOCAL + BYTES
    before = int.from_bytes(it.far.peek(it.pdid, at, 4), "little")
    done = it.run(
        [
            work(Op.WRITE, length=64, src=LOCAL, dst=it.gva),
            work(Op.FETCH_ADD, dst=at, length=4, operand=0xFFFF_FFFF),
            work(Op.READ, length=64, src=at - 64, dst=there),
        ],
        schedule,
    )
    assert done["value"][1] == before
    assert it.far.peek(it.pdid, at, 8) == ((before - 1) % 2**32).to_bytes(8, "little")
    assert it.far.peek(it.pdid, it.gva, 64) == it.pattern()[:64]
    assert it.home.peek(it.pdid, there, 8) == it.counter.to_bytes(8, "little")


SLOTS = 4


def two_messages(it: Checked, schedule: dict[int, str]) -> None:
    """Two SENDs and a READ of what else is there: each message is in the ring once."""
    it.messages += 2
    for i in range(2):
        it.home.poke(it.pdid, LOCAL + BYTES + 8 * i, (it.messages - 1 + i).to_bytes(8, "little"))
    it.run(
        [
            work(Op.SEND, length=8, src=LOCAL + BYTES, dst=it.box),
            work(Op.SEND, length=8, src=LOCAL + BYTES + 8, dst=it.box),
            work(Op.READ, length=8, src=it.gva, dst=LOCAL + BYTES + 64),
        ],
        schedule,
    )
    head = int.from_bytes(it.far.peek(it.pdid, it.box, 8), "little")
    assert head == it.messages
    slots = it.box + mailbox_slots_at(SLOTS)
    found = [it.far.peek(it.pdid, slots + 64 * (n % SLOTS), 8) for n in (head - 2, head - 1)]
    assert sorted(int.from_bytes(m, "little") for m in found) == [it.messages - 1, it.messages]
    it.far.poke(it.pdid, it.box + 8, head.to_bytes(8, "little"))  # they are taken out


def a_copy_and_back(it: Checked, schedule: dict[int, str]) -> None:
    """A COPY of two blocks from the far node into a word of ours that nothing comes late to."""
    it.home.poke(it.pdid, it.back, bytes(128))
    it.far.poke(it.pdid, it.gva + BYTES + 128, it.pattern()[:128])
    it.run([work(Op.COPY, length=128, src=it.gva + BYTES + 128, dst=it.back)], schedule)
    assert it.home.peek(it.pdid, it.back, 128) == it.far.peek(it.pdid, it.gva + BYTES + 128, 128)


def a_signal(it: Checked, schedule: dict[int, str]) -> None:
    """A WRITE of two blocks with its signal."""
    flag = it.gva + BYTES + 256
    signal = {"flags": int(WorkFlags.SIGNAL), "operand": it.round + 1, "compare": flag}
    it.run([work(Op.WRITE, length=128, src=LOCAL, dst=it.gva, **signal)], schedule)
    assert it.far.peek(it.pdid, it.gva, 128) == it.pattern()[:128]
    assert it.far.peek(it.pdid, flag, 8) == it.round.to_bytes(8, "little")


Workload = Callable[[Checked, dict[int, str]], None]


@pytest.mark.parametrize(
    ("workload", "misfortunes", "at_least"),
    [
        (three_blocks, 2, 1000),
        (three_atomics, 2, 1000),
        (a_mixture, 2, 1000),
        (two_messages, 2, 1000),
        (a_copy_and_back, 2, 1000),
        (a_signal, 2, 1000),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_every_schedule_ends_well(workload: Workload, misfortunes: int, at_least: int) -> None:
    it = Checked()
    workload(it, {})
    steps = it.pair.steps + 2  # what is sent again counts, too
    played = 0
    for schedule in all_schedules(steps, misfortunes):
        try:
            workload(it, schedule)
        except AssertionError as error:
            raise AssertionError(f"schedule {schedule}, number {played}: {error}") from error
        played += 1
    assert played >= at_least
    it.pair.cluster.close()


def no_dedupe(monkeypatch: pytest.MonkeyPatch) -> None:
    def again(it: Target, peer: int, packet: np.void, frame: Frame, reply: np.ndarray) -> None:
        slot = it.core.slot_of(int(packet["pdid"]))
        assert not isinstance(slot, Status)
        it._execute(peer, frame, packet, slot, reply, None)

    monkeypatch.setattr(Target, "_duplicate", again)


def no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Retransmit, "on_timer", lambda self: None)


def base_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    below = Target.forget_below
    monkeypatch.setattr(Target, "forget_below", lambda self, peer, base: below(self, peer, base + 1))


@pytest.mark.parametrize("mistake", [no_dedupe, no_timer, base_too_early])
def test_schedules_find_mistakes(mistake: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """One misfortune is enough for each."""
    it = Checked()
    three_atomics(it, {})
    mistake(monkeypatch)
    with pytest.raises(AssertionError):
        play_all(it, all_schedules(8, 1))
    it.pair.cluster.close()


def play_all(it: Checked, schedules: Iterator[dict[int, str]]) -> None:
    for schedule in schedules:
        three_atomics(it, schedule)
