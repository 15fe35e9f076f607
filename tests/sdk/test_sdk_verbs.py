"""`unimem.verbs`: arrays of work requests and completion queues."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fakes import FakeCluster, LoopbackPort

from unimem import Client, UsageError, verbs
from unimem.wire import CompletionFlags, Op, Status, WorkFlags


def setup(**options: Any) -> tuple[Client, LoopbackPort, verbs.QueuePair]:
    port = LoopbackPort(FakeCluster(), **options)
    um = Client(port)  # type: ignore[arg-type]
    return um, port, verbs.QueuePair(um, verbs.CompletionQueue(um))


def test_post_and_poll() -> None:
    um, _, pair = setup(deferred=True)
    with um:
        p = um.alloc(4096)
        requests, payload = verbs.write_requests(int(p) + 8 * np.arange(100), np.arange(100, dtype="u8"))
        requests["wr_id"] = 1000 + np.arange(100)
        pair.post(requests, payload)
        assert pair.counters.outstanding == 100
        assert (requests["wr_id"] == 1000 + np.arange(100)).all()  # the poster's array is left alone
        first = pair.queue.poll(30, timeout=1)
        assert first["wr_id"].tolist() == list(range(1000, 1030))
        assert len(pair.queue) == 70
        assert len(pair.queue.poll()) == 70
        assert len(pair.queue.poll()) == 0
        assert pair.counters == verbs.Counters(posted=100, completed=100, failed=0, bytes=800)
        assert um.get(p, 800, dtype="u8").tolist() == list(range(100))


def test_reads_atomics_and_failures_are_rows_not_exceptions() -> None:
    um, _, pair = setup()
    with um:
        p = um.alloc(64)
        um.put(p, b"12345678")
        requests = np.zeros(4, verbs.WORK_REQUEST)
        requests["op"] = [Op.READ, Op.FETCH_ADD, Op.WRITE, Op.READ]
        requests["length"] = [5, 8, 3, 8]
        requests["src"] = [p.gva, 0, 0, 0x700_0000_0000]
        requests["dst"] = [0, p.gva + 8, p.gva + 16, 0]
        requests["operand"] = [0, 7, 0, 0]
        out = np.zeros((4, 8), np.uint8)
        pair.post(requests, np.frombuffer(b"abc\0\0\0\0\0", np.uint8), out)
        rows = pair.queue.poll()
        assert rows["status"].tolist() == [0, 0, 0, Status.TRANSLATION_FAULT]
        assert rows["flags"][3] & CompletionFlags.DEFINITE
        assert out[0].tobytes() == b"12345\0\0\0"
        assert um.get(p + 8, 11).tobytes() == b"\7" + bytes(7) + b"abc"
        assert pair.counters.failed == 1


def test_messages_copies_signals_and_small_words() -> None:
    um, port, pair = setup()
    with um:
        p, q, box = um.alloc(64), um.alloc(64, node="n2"), um.mailbox(slots=2)
        um.put(p, b"12345678")
        port.log.clear()
        requests = np.zeros(4, verbs.WORK_REQUEST)
        requests["op"] = [Op.SEND, Op.COPY, Op.WRITE, Op.FETCH_ADD]
        requests["length"] = [5, 8, 3, 4]
        requests["src"] = [0, p.gva, 0, 0]
        requests["dst"] = [box.ptr.gva, q.gva, p.gva + 16, p.gva + 28]
        requests["operand"] = [0, 0, 9, 3]
        requests["compare"] = [0, 0, p.gva + 40, 0]
        requests["flags"] = [WorkFlags.ORDERED, WorkFlags.ACCEPTED, WorkFlags.SIGNAL, WorkFlags.RETURN]
        requests["deadline_us"] = [1, 2, 3, 4]
        pair.post(requests, np.frombuffer(b"hello\0\0\0abc\0\0\0\0\0", np.uint8))
        assert not pair.queue.poll()["status"].any()
        assert box.receive() == b"hello"
        assert um.get(q, 8).tobytes() == b"12345678"
        assert um.get(p + 16, 3).tobytes() == b"abc"
        assert um.wait_until(p + 40, 9) == 9
        assert um.wait_until(p + 28, 3, width=4) == 3
        (posted, *_) = port.log
        assert isinstance(posted, verbs._Posted)
        inline = WorkFlags.INLINE
        assert posted.requests["flags"].tolist() == [
            WorkFlags.ORDERED | inline,
            WorkFlags.ACCEPTED,
            WorkFlags.SIGNAL | inline,
            0,
        ]
        assert posted.requests["deadline_us"].tolist() == [1, 2, 3, 4]


def test_read_requests() -> None:
    um, _, pair = setup()
    with um:
        p = um.alloc(64)
        um.put(p, b"12345678")
        requests, out = verbs.read_requests([int(p), int(p) + 4], 4)
        pair.post(requests, out=out)
        assert out.tobytes() == b"12345678"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"op": 0}, "no such operation"),
        ({"op": 8}, "no such operation"),
        ({"length": 0}, "a length is"),
        ({"length": (256 << 10) + 1}, "a length is"),
        ({"op": 6, "length": 65}, "of SEND 64"),
        ({"op": 7, "length": (1 << 30) + 1}, "of COPY"),
        ({"op": 7, "src": 5}, "not a global address"),
        ({"op": 3, "length": 2}, "an atomic has 4 or 8 bytes"),
        ({"op": 3, "dst": (1 << 36) + 4}, "an atomic has 4 or 8 bytes"),
        ({"op": 3, "length": 4, "dst": (1 << 36) + 6}, "an atomic has 4 or 8 bytes"),
        ({"flags": 32, "compare": 5}, "only a WRITE signals"),
        ({"flags": 32, "compare": (1 << 36) + 4}, "only a WRITE signals"),
        ({"flags": 32, "op": 6, "compare": 1 << 36}, "only a WRITE signals"),
        ({"dst": 5}, "not a global address"),
        ({"dst": (1 << 48) - 7}, "not a global address"),
        ({"length": 16}, "16 bytes of padded payload"),
        ({"op": 2, "src": 1 << 36}, "0 bytes of padded payload"),
    ],
)
def test_what_no_node_could_accept_is_refused(change: dict[str, int], words: str) -> None:
    um, port, pair = setup()
    with um:
        requests, payload = verbs.write_requests([1 << 36], np.ones(1, "u8"))
        for name, value in change.items():
            requests[name] = value
        with pytest.raises(UsageError, match=words):
            pair.post(requests, payload)
        assert not port.log


def test_arrays_of_the_wrong_kind() -> None:
    um, _, pair = setup()
    with um:
        requests, _ = verbs.read_requests([1 << 36], 8)
        for out in (None, np.empty((1, 7), np.uint8), np.empty((2, 8), np.uint8), np.empty((1, 8), "u2")):
            with pytest.raises(UsageError, match="reads need out="):
                pair.post(requests, out=out)
        with pytest.raises(UsageError, match="WORK_REQUEST"):
            pair.post(np.zeros(1, "u8"))
        with pytest.raises(UsageError, match="non-empty"):
            pair.post(requests[:0])
        with pytest.raises(UsageError, match="flat"):
            pair.post(requests, np.zeros(4, "u2"))
