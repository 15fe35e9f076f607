"""Impairments: what the text says happens to packets, the same each time, and every frame is well-formed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unimem_node.fabric.impair import Impair, parse
from unimem_node.fabric.impair_rules import draws, mix
from unimem_node.fabric.packets import (
    ACK_RECORD,
    PacketError,
    PacketOp,
    build_frame,
    check_packet,
    open_frame,
    payload,
    request,
)

US = 1_000_000


def frame_of(n: int, src: int = 0, dst: int = 1, first: int = 0) -> np.ndarray:
    """Writes of 1, 2, … bytes; packet i arrives at 100 + i ps."""
    rows = [
        (request(PacketOp.WRITE, first + i, pdid=7, time=100 + i), bytes([i % 256]) * (i % 50 + 1))
        for i in range(n)
    ]
    frame = build_frame(rows, src_node=src, dst_node=dst, number=1, time=100 + n - 1)
    frame.setflags(write=False)
    return frame


def arrived(impair: Impair, n: int = 1000, now_ps: int = 0, **ends: int) -> list[tuple[int, int, int]]:
    """(seq, delay, time) of all packets that arrive of `n`; all of them whole."""
    seen = []
    for delay, frame in impair.apply(frame_of(n, **ends), now_ps):
        opened = open_frame(frame)
        assert not frame.flags.writeable
        for number, packet in enumerate(opened.packets):
            check_packet(opened, number)
            seq = int(packet["seq"])
            assert payload(opened, packet).tobytes() == bytes([seq % 256]) * (seq % 50 + 1)
            seen.append((seq, delay, int(packet["time"])))
        assert int(opened.header["time"]) >= max(time for _, _, time in seen[-len(opened.packets) :])
    return seen


def test_nothing_installed_hands_on_the_same_frame() -> None:
    frame = frame_of(3)
    for text in ("", "seed=3", "loss=0,duplicate=0,corrupt=0", "n4->n5: loss=1"):
        [(delay, same)] = parse(text).apply(frame, 0)
        assert delay == 0
        assert same is frame
    assert not parse("loss=0,seed=1")
    assert parse("loss=0.1")


def test_loss_takes_its_share_of_packets_and_says_how_many() -> None:
    impair = parse("loss=0.2,seed=5")
    seen = [seq for seq, _, _ in arrived(impair)]
    assert seen == sorted(set(seen))
    assert len(seen) == 1000 - impair.counts()["loss"]
    assert 150 < impair.counts()["loss"] < 250


def test_all_lost_is_nothing() -> None:
    assert parse("loss=1").apply(frame_of(4), 0) == []


def test_the_same_seed_is_the_same_and_another_is_not() -> None:
    def run(seed: int) -> list[tuple[int, int, int]]:
        return arrived(parse(f"loss=0.1,duplicate=0.1,reorder=0.1,jitter=5us@0.1,seed={seed}"))

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_a_packets_fate_depends_on_its_number_not_on_frames_or_other_links() -> None:
    whole = [seq for seq, _, _ in arrived(parse("loss=0.3"), 60)]
    impair = parse("loss=0.3")
    parts = []
    for first in range(0, 60, 20):
        impair.apply(frame_of(7, src=2, dst=1), 0)
        for _, frame in impair.apply(frame_of(20, first=first), 0):
            parts += [int(seq) for seq in open_frame(frame).packets["seq"]]
    assert parts == whole


def test_a_rule_that_is_added_at_the_end_changes_nothing_before() -> None:
    lost = {seq for seq, _, _ in arrived(parse("loss=0.3"))}
    assert {seq for seq, _, _ in arrived(parse("loss=0.3,duplicate=0.5"))} == lost


def test_a_duplicate_is_the_same_packet_later() -> None:
    seen = arrived(parse("duplicate=1,gap=3us"), 50)
    first, second = seen[:50], sorted(seen[50:])
    assert [seq for seq, delay, _ in first if delay == 0] == list(range(50))
    assert [seq for seq, _, _ in second] == list(range(50))
    assert all(0 < delay <= 3 * US and time == 100 + seq + delay for seq, delay, time in second)


def test_delay_moves_every_time_stamp() -> None:
    seen = arrived(parse("delay=2.5us"), 20)
    assert seen == [(i, 2_500_000, 2_500_100 + i) for i in range(20)]


def test_delay_moves_the_times_of_acknowledgements() -> None:
    records = np.zeros(2, ACK_RECORD)
    records["time"] = 50, 60
    frame = build_frame(
        [(request(PacketOp.ACK, 0, time=60), records.tobytes())], src_node=1, dst_node=0, time=60
    )
    [(delay, late)] = parse("delay=1ns").apply(frame, 0)
    opened = open_frame(late)
    check_packet(opened, 0)
    assert delay == 1000
    assert payload(opened, opened.packets[0]).view(ACK_RECORD)["time"].tolist() == [1050, 1060]
    assert int(opened.header["time"]) == 1060


def test_reordered_packets_come_after_later_ones() -> None:
    seen = arrived(parse("reorder=0.1,gap=10us"))
    order = [seq for seq, _, _ in sorted(seen, key=lambda row: row[2])]
    assert sorted(order) == list(range(1000))
    assert order != sorted(order)


@pytest.mark.parametrize("n", [1, 30])
def test_corruption_is_one_bit_that_the_checksum_sees(n: int) -> None:
    impair = parse("corrupt=1,seed=9")
    frame = frame_of(n)
    bad = flipped = 0
    for delay, damaged in impair.apply(frame, 0):
        assert delay == 0
        opened = open_frame(damaged)
        flipped += int(np.unpackbits(damaged[64:] ^ frame[64:]).sum())
        for number in range(n):
            with pytest.raises(PacketError):
                check_packet(opened, number)
            bad += 1
    assert bad == flipped == n


def test_what_was_damaged_before_is_not_mended() -> None:
    frame = frame_of(3).copy()
    frame[64 + 64 + 20] ^= 1
    opened = open_frame(parse("delay=1us").apply(frame, 0)[0][1])
    check_packet(opened, 0)
    with pytest.raises(PacketError):
        check_packet(opened, 1)


def test_a_payload_outside_the_frame_is_handed_on_as_it_is() -> None:
    frame = frame_of(3).copy()
    frame[64 + 64 + 12 : 64 + 64 + 16] = 255  # length of packet 1
    for text, wrong in (("delay=1us", 1), ("loss=0.0001,corrupt=1", 3), ("duplicate=1", 2)):
        bad = 0
        for _, late in parse(text).apply(frame, 0):
            opened = open_frame(late)
            for number in range(len(opened.packets)):
                try:
                    check_packet(opened, number)
                except PacketError:
                    bad += 1
        assert bad == wrong


def test_links_are_matched_by_pattern_and_direction() -> None:
    impair = parse("n0->n1: loss=1; n[23]<->n9: loss=1")
    for src, dst, passes in ((0, 1, False), (1, 0, True), (2, 9, False), (9, 3, False), (9, 4, True)):
        assert bool(impair.apply(frame_of(1, src=src, dst=dst), 0)) is passes


def test_partition_is_both_ways_oneway_is_not() -> None:
    both, one = parse("n0->*: partition"), parse("n0->*: partition_oneway")
    assert both.apply(frame_of(1), 0) == both.apply(frame_of(1, src=1, dst=0), 0) == []
    assert one.apply(frame_of(1), 0) == []
    assert len(one.apply(frame_of(1, src=1, dst=0), 0)) == 1


def test_a_window_of_time_and_a_count() -> None:
    impair = parse("partition,at=2us,for=3us")
    passing = [bool(impair.apply(frame_of(1), now)) for now in (2 * US - 1, 2 * US, 5 * US - 1, 5 * US)]
    assert passing == [True, False, False, True]
    impair = parse("loss=1,max_count=3,after=1us")
    assert len(arrived(impair, 5, now_ps=0)) == 5
    assert [seq for seq, _, _ in arrived(impair, 5, now_ps=US)] == [3, 4]
    assert len(arrived(impair, 5, now_ps=2 * US)) == 5
    assert impair.counts() == {"loss": 3}


def test_hold_keeps_packets_until_the_end_of_the_window() -> None:
    impair = parse("hold,after=0ps,for=1us")
    assert {time for _, _, time in arrived(impair, 10)} == {US}
    assert {delay for _, delay, _ in arrived(impair, 10, now_ps=US)} == {0}


def test_bandwidth_is_a_queue() -> None:
    # 64 + 1, 64 + 2, 64 + 3 bytes at 8 Gb/s, a nanosecond a byte, behind one another from 100 ps on.
    seen = arrived(parse("bandwidth=8Gbps"), 3)
    assert [time for _, _, time in seen] == [65_100, 65_100 + 66_000, 65_100 + 66_000 + 67_000]


def test_only_some_kinds_of_packets() -> None:
    assert parse("loss=1,op=WRITE|READ").apply(frame_of(2), 0) == []
    assert len(arrived(parse("loss=1,op=ACK"), 2)) == 2


def test_what_is_no_frame_passes() -> None:
    for junk in (np.zeros(0, np.uint8), np.zeros(200, np.uint8), np.full(64, 255, np.uint8)):
        [(delay, same)] = parse("loss=1").apply(junk, 0)
        assert same is junk
        assert delay == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("los=1", "'los=1' is unknown; there are loss, duplicate"),
        ("loss=1.5", "a probability is a number from 0 to 1"),
        ("loss=much", "a probability is a number from 0 to 1"),
        ("loss", "a probability is a number from 0 to 1"),
        ("loss=nan", "a probability is a number from 0 to 1"),
        ("delay=5", "'5' is no time; say it as 50us"),
        ("delay=-5us", "is no time"),
        ("n0-n1: loss=1", "'n0-n1' names no link; say it as n0->n1"),
        ("loss=1,after=", "is no time"),
        ("loss=1,after", "needs a value"),
        ("loss=1,after=1us,after=2us", "once in a group"),
        ("loss=1,after=1us,at=2us", "after= and at= are the same"),
        ("after=1us", "says what happens to nothing"),
        ("hold", "hold needs an end"),
        ("partition=1", "partition takes no value"),
        ("bandwidth=fast", "said as 100Mbps"),
        ("bandwidth=0bps", "bandwidth needs bits a second"),
        ("loss=1,op=WRTE", "op=WRTE: there are WRITE, READ"),
        ("loss=1,max_count=-1", "a whole number is needed"),
    ],
)
def test_bad_text_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="(?s).*" + message.replace("(", r"\(").replace("->", "->")):
        parse(text)


def test_the_random_bits_are_those_of_splitmix64() -> None:
    # The first outputs for seed 1234567 of the published reference implementation.
    assert draws(1234567, 0, 3).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]
    assert mix(1234567 + 0x9E37_79B9_7F4A_7C15) == 6457827717110365317


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40))
def test_any_mixture_gives_frames_that_open(seed: int, n: int) -> None:
    text = f"loss=0.2,duplicate=0.2,corrupt=0.2,reorder=0.2,jitter=3us@0.5,bandwidth=1Gbps,seed={seed}"
    for delay, frame in parse(text).apply(frame_of(n), 0):
        opened = open_frame(frame)
        assert delay >= 0
        assert len(frame) == int(opened.header["total_bytes"])
