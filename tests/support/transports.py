"""What every transport must do: a suite to inherit, and the endpoints it talks to.

A test of a transport subclasses `TransportConformance` and gives it a fixture ``wire``: two connected ends
as a `Wire`. Whatever asynchrony there is stays behind `Wire.settle`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pytest

from unimem_node.fabric.packets import PacketOp, build_frame, open_frame, request, seal_header


@dataclass
class Endpoint:
    """A `FrameSink` that remembers what it was told."""

    index: int
    frames: list[tuple[int, np.ndarray]] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    unreachable: list[int] = field(default_factory=list)
    timer_ps: int | None = None

    def on_frame(self, peer: int, frame: np.ndarray) -> None:
        assert not frame.flags.writeable
        self.frames.append((peer, frame.copy()))  # it is valid during this call

    def turn(self) -> None:
        """Nothing to do."""

    def peer_lost(self, peer: int, reason: str) -> None:
        assert reason
        self.lost.append(peer)

    def peer_unreachable(self, peer: int, reason: str) -> None:
        assert reason
        self.unreachable.append(peer)

    def pump(self) -> None:
        """Nothing to do."""

    def on_timer(self) -> None:
        """Nothing is ever due."""

    def take_frames(self) -> list[tuple[int, np.ndarray]]:
        """Nothing to send by itself."""
        return []

    def numbers(self) -> list[int]:
        """The numbers of the frames that arrived."""
        return [int(open_frame(frame).header["number"]) for _, frame in self.frames]


class Wire(Protocol):
    """Two ends, 0 and 1, and a third node, 2, that does not exist."""

    ends: list[Endpoint]

    def send(self, src: int, dst: int, frame: np.ndarray) -> None: ...

    def send_all(self, src: int, dst: int, frames: Sequence[np.ndarray]) -> None:
        """The same for many, with nothing in between."""

    def settle(self) -> None:
        """Let everything arrive that can arrive."""

    def kill(self, index: int) -> None:
        """End one end without a farewell."""


def numbered(src: int, dst: int, number: int, payload: bytes = b"12345678") -> np.ndarray:
    """A valid frame; read-only, as a node's are."""
    packet = request(PacketOp.WRITE, number, va=0x1000)
    frame = build_frame([(packet, payload)], src_node=src, dst_node=dst, number=number, time=number)
    frame.flags.writeable = False
    return frame


def large(src: int, dst: int, number: int, size: int) -> np.ndarray:
    """A frame with `size` random bytes that no packet refers to, hence quickly made; read-only."""
    frame = np.concatenate(
        [numbered(src, dst, number), np.frombuffer(np.random.default_rng(size).bytes(size), np.uint8)]
    )
    frame[16:24] = np.frombuffer(len(frame).to_bytes(8, "little"), np.uint8)
    seal_header(frame)
    frame.flags.writeable = False
    return frame


class TransportConformance:
    """Inherit, and provide the fixture ``wire``."""

    def test_frames_arrive_in_order(self, wire: Wire) -> None:
        for number in range(100):
            wire.send(0, 1, numbered(0, 1, number))
            wire.send(1, 0, numbered(1, 0, number))
        wire.settle()
        for end in wire.ends:
            assert end.numbers() == list(range(100))
            assert {peer for peer, _ in end.frames} == {1 - end.index}
            assert end.lost == end.unreachable == []

    def test_many_small_frames_at_once_both_ways(self, wire: Wire) -> None:
        burst = [[numbered(end, 1 - end, number) for number in range(2000)] for end in (0, 1)]
        for end in (0, 1):
            wire.send_all(end, 1 - end, burst[end])
        wire.settle()
        for end in wire.ends:
            assert end.numbers() == list(range(2000))
            assert end.lost == end.unreachable == []

    def test_large_frames_back_to_back(self, wire: Wire) -> None:
        frames = [large(0, 1, number, 300_000 + 8 * number) for number in range(40)]
        wire.send_all(0, 1, frames)
        wire.settle()
        assert wire.ends[1].numbers() == list(range(40))
        assert all(
            np.array_equal(got, frame) for (_, got), frame in zip(wire.ends[1].frames, frames, strict=True)
        )

    @pytest.mark.parametrize("size", [1, 8, 4095, 65536, 256 << 10, (2 << 20) + 8, (5 << 20) + 8])
    def test_bytes_arrive_as_they_were(self, wire: Wire, size: int) -> None:
        frame = large(0, 1, 1, size)
        wire.send(0, 1, frame)
        wire.send(0, 1, numbered(0, 1, 2))
        wire.settle()
        assert wire.ends[1].numbers() == [1, 2]
        assert np.array_equal(wire.ends[1].frames[0][1], frame)

    def test_frames_that_were_sent_before_the_sender_ended_may_arrive_but_in_order(self, wire: Wire) -> None:
        for number in range(10):
            wire.send(0, 1, numbered(0, 1, number))
        wire.settle()
        wire.kill(0)
        wire.settle()
        assert wire.ends[1].numbers() == list(range(10))

    def test_a_lost_peer_is_reported_once(self, wire: Wire) -> None:
        wire.send(0, 1, numbered(0, 1, 0))
        wire.settle()
        wire.kill(1)
        wire.settle()
        wire.settle()
        assert wire.ends[0].lost == [1]
        assert wire.ends[0].unreachable == []

    def test_a_peer_that_only_listened_loses_it_too(self, wire: Wire) -> None:
        wire.send(0, 1, numbered(0, 1, 0))
        wire.settle()
        wire.kill(0)
        wire.settle()
        assert wire.ends[1].lost == [0]

    def test_after_a_loss_the_next_frame_finds_nobody(self, wire: Wire) -> None:
        wire.send(0, 1, numbered(0, 1, 0))
        wire.settle()
        wire.kill(1)
        wire.settle()
        wire.send(0, 1, numbered(0, 1, 1))
        wire.settle()
        assert wire.ends[0].lost == [1]
        assert wire.ends[0].unreachable == [1]

    def test_a_peer_that_is_not_there_is_unreachable(self, wire: Wire) -> None:
        wire.send(0, 2, numbered(0, 2, 0))
        wire.settle()
        assert wire.ends[0].unreachable == [2]
        assert wire.ends[0].lost == []

    @pytest.mark.parametrize("n", [0, 63])
    def test_a_frame_without_a_header_is_refused(self, wire: Wire, n: int) -> None:
        with pytest.raises(ValueError, match="header"):
            wire.send(0, 1, np.zeros(n, np.uint8))
