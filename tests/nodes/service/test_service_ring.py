"""Rings of the `shm` transport: what fits, what wraps, and what a peer may write that cannot be."""

from __future__ import annotations

import mmap

import numpy as np
import pytest

from unimem_node.service.transports import shm
from unimem_node.service.transports.ring import (
    ASLEEP,
    FULL,
    SKIP,
    TAIL,
    Receiver,
    RingError,
    Sender,
    bytes_for,
)

SIZE = 64 << 10


def piece(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


def ring(size: int = SIZE) -> tuple[Sender, Receiver]:
    memory = memoryview(mmap.mmap(-1, bytes_for(size)))
    return Sender(memory), Receiver(memory)


def test_records_come_as_they_were_put_and_only_when_published() -> None:
    sender, receiver = ring()
    assert sender.put(piece(b"one"))
    assert sender.put(piece(b"two records"), more=True)
    assert receiver.get() is None
    sender.publish()
    first = receiver.get()
    assert first is not None
    assert (first.tobytes(), receiver.more) == (b"one", False)
    assert not first.flags.writeable
    second = receiver.get()
    assert second is not None
    assert (second.tobytes(), receiver.more) == (b"two records", True)
    assert receiver.get() is None


def test_many_rounds_of_all_lengths() -> None:
    sender, receiver = ring()
    rng = np.random.default_rng(3)
    for _ in range(3000):
        data = rng.bytes(int(rng.integers(1, sender.longest + 1)))
        assert sender.put(piece(data))
        sender.publish()
        got = receiver.get()
        assert got is not None
        assert got.tobytes() == data
        receiver.release()


def test_a_full_ring_takes_nothing_until_released() -> None:
    sender, receiver = ring()
    data = piece(bytes(8000))
    count = 0
    while sender.put(data):
        count += 1
    assert count == 8  # 8 * 8064 bytes of 65536
    sender.publish()
    sender.wait_for_room()
    assert receiver.words[FULL] == 1
    rang = []
    for _ in range(count):
        assert receiver.get() is not None
        rang.append(receiver.release())
    assert rang.index(True) == 3  # when half the ring is free
    assert sender.put(data)


def test_the_doorbell_is_for_sleepers() -> None:
    sender, receiver = ring()
    sender.put(piece(b"x"))
    assert not sender.publish()
    assert not receiver.sleep()  # something has come
    receiver.get()
    receiver.release()
    assert receiver.sleep()
    sender.put(piece(b"y"))
    assert sender.publish()  # rings once
    sender.put(piece(b"z"))
    assert not sender.publish()
    assert receiver.words[ASLEEP] == 0


@pytest.mark.parametrize("tail", [8, SIZE + 64, (1 << 64) - 64])
def test_positions_that_cannot_be(tail: int) -> None:
    _, receiver = ring()
    receiver.words[TAIL] = tail
    with pytest.raises(RingError, match="wait in a ring"):
        receiver.get()


@pytest.mark.parametrize("length", [SIZE, 4096, (1 << 62)])
def test_lengths_that_cannot_be(length: int) -> None:
    sender, receiver = ring()
    sender.put(piece(bytes(64)))
    sender.publish()
    receiver.marks[0] = length
    with pytest.raises(RingError, match="a record of"):
        receiver.get()


def test_nothing_but_skips() -> None:
    sender, receiver = ring()
    sender.put(piece(bytes(64)))
    sender.publish()
    receiver.marks[0] = SKIP
    with pytest.raises(RingError):
        receiver.get()


@pytest.mark.parametrize("size", [0, 4096, SIZE + 8, 3 * SIZE])
def test_sizes_of_rings(size: int) -> None:
    with pytest.raises(ValueError, match="a power of two"):
        Sender(memoryview(bytearray(bytes_for(size))))


def test_memory_is_as_large_as_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    room = 2 * bytes_for(1 << 20)

    def allocate(file: int, at: int, size: int) -> None:
        if size > room:
            raise OSError(28, "No space left on device")
        shm.os.truncate(file, size)

    monkeypatch.setattr(shm.os, "posix_fallocate", allocate)
    file, size = shm.make_memory(8 << 20)
    assert size == 1 << 20
    shm.map_memory(file, size).close()
    with pytest.raises(ValueError, match="were announced"):
        shm.map_memory(file, size // 2)
    with pytest.raises(ValueError, match="rings of"):
        shm.map_memory(file, 12345)
    shm.os.close(file)
    room = 0
    with pytest.raises(OSError, match="No space"):
        shm.make_memory(8 << 20)
