"""The verbs over gRPC and real node processes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

import unimem
from unimem import verbs
from unimem.wire import Op
from unimem_lab import ProcessCluster

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def cluster() -> Iterator[ProcessCluster]:
    with ProcessCluster(nodes=3) as running:
        yield running


def test_two_clients_talk_through_a_mailbox(cluster: ProcessCluster) -> None:
    with cluster.client(home="n0", domain="d") as one, cluster.client(home="n1", domain="d") as two:
        box = one.mailbox(node="n2", slots=4)
        there = two.mailbox_at(box.ptr)
        sent = [i.to_bytes(2, "little") * (1 + i % 32) for i in range(100)]

        surely_not: list[bool] = []

        def send() -> None:
            for message in sent:
                while True:
                    try:
                        there.send(message)
                        break
                    except unimem.MailboxFull as full:
                        surely_not.append(full.definite)

        sender = threading.Thread(target=send)
        sender.start()
        assert [box.receive(timeout=30) for _ in sent] == sent
        sender.join()
        assert all(surely_not)
        assert there.poll() is None


def test_a_signal_comes_after_its_data(cluster: ProcessCluster) -> None:
    with cluster.client(home="n0", domain="s") as one, cluster.client(home="n2", domain="s") as two:
        data = np.random.default_rng(1).integers(0, 256, 200_000, np.uint8)
        p = one.alloc(1 << 20, node="n1")
        for turn in range(1, 6):
            one.put_signal(p, data + np.uint8(turn), p + (1 << 19), turn)
            two.wait_until(p + (1 << 19), turn, timeout=30)
            assert (two.get(p, len(data)) == data + np.uint8(turn)).all()


def test_copy_small_words_and_levels(cluster: ProcessCluster) -> None:
    with cluster.client(home="n0") as um:
        a, b = um.alloc(1 << 20, node="n1"), um.alloc(1 << 20, node="n2")
        data = np.random.default_rng(2).integers(0, 256, 1 << 20, np.uint8)
        um.put(a, data, at=unimem.ACCEPTED)
        queue = verbs.CompletionQueue(um)
        pair = verbs.QueuePair(um, queue)
        requests = np.zeros(1, verbs.WORK_REQUEST)
        requests["op"], requests["src"], requests["dst"], requests["length"] = (
            Op.COPY,
            int(a),
            int(b),
            1 << 20,
        )
        pair.post(requests)
        (row,) = queue.poll(1, timeout=30)
        assert (row["status"], row["bytes"]) == (0, 1 << 20)
        assert (um.get(b, 1 << 20) == data).all()
        um.put(b, bytes(16))
        assert [um.fetch_add(b + 4, 1, width=4) for _ in range(3)] == [0, 1, 2]
        assert um.get(b, 16, dtype="<u4").tolist() == [0, 3, 0, 0]
        um.put(b, b"early", at=unimem.SOURCE)
        um.flush()
        assert um.get(b, 5).tobytes() == b"early"


def test_a_transfer_to_a_paused_node_is_stopped_by_its_deadline_or_by_hand(cluster: ProcessCluster) -> None:
    with cluster.client(home="n0") as um:
        p = um.alloc(4096, node="n1")
        um.put(p, b"before")
        os.kill(cluster.pid("n1"), signal.SIGSTOP)
        try:
            start = time.monotonic()
            with pytest.raises(unimem.DeadlineExceeded) as late:
                um.put(p, b"late", timeout=0.5)
            assert not late.value.definite
            assert time.monotonic() - start < 0.5 + 0.2
            t = um.put_async(p, b"taken back", timeout=20)
            time.sleep(0.2)
            assert not t.cancel()
            error = t.exception(timeout=5)
            assert isinstance(error, unimem.Cancelled)
            assert not error.definite
        finally:
            os.kill(cluster.pid("n1"), signal.SIGCONT)
        um.put(p, b"after", timeout=20)
        assert um.get(p, 5).tobytes() == b"after"
