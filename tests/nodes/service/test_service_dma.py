from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio

from support.fake_coordinator import FakeCoordinator
from support.fake_node import WINDOW, FakeNode
from support.service_harness import (
    CREDENTIALS,
    PDID,
    TOKEN,
    Stubs,
    error_info,
    eventually,
    node_server,
    post_frame,
    requests,
)
from unimem.v1 import node_pb2
from unimem.wire import (
    COMPLETION,
    CompletionFlags,
    FrameKind,
    Op,
    Status,
    WorkFlags,
    decode_bytes_field,
    padded,
    parse_frame,
)
from unimem_node.service import NodeServer, transfer

pytestmark = pytest.mark.asyncio

Served = tuple[NodeServer, FakeNode, Stubs]


@pytest_asyncio.fixture
async def served() -> AsyncIterator[Served]:
    coordinator = FakeCoordinator()
    await coordinator.start()
    async with node_server(coordinator) as running:
        await running[2].node.OpenDomain(node_pb2.OpenDomainRequest(pdid=PDID, token=TOKEN))
        yield running
    await coordinator.stop()


async def completions(call: Any, n: int) -> tuple[np.ndarray, list[bytes]]:
    """The next `n` completions of a packed stream, and the bytes of those with DATA."""
    rows: list[np.ndarray] = []
    data = []
    while sum(map(len, rows)) < n:
        frame = decode_bytes_field(await call.read())
        assert frame is not None
        _, some, at = parse_frame(frame, FrameKind.COMPLETE, COMPLETION)
        rows.append(some)
        for row in some:
            if row["flags"] & CompletionFlags.DATA:
                data.append(frame[at : at + int(row["bytes"])].tobytes())
                at += padded(int(row["bytes"]))
        assert at == len(frame)
    return np.concatenate(rows), data


async def finish(call: Any) -> grpc.StatusCode:
    await call.done_writing()
    assert await call.read() is vars(grpc.aio)["EOF"]
    code: grpc.StatusCode = await call.code()
    return code


async def test_a_post_of_writes_and_reads(served: Served) -> None:
    _, node, stubs = served
    call = stubs.raw("DmaService/Transfer")(metadata=CREDENTIALS)
    wrs = requests(4, length=[5, 5, 3, 8], pdid=999)
    wrs["wr_id"] = [70, 70, 2**63, 0]
    wrs["op"] = [Op.WRITE, Op.READ, Op.READ, Op.FETCH_ADD]
    wrs["flags"] = [WorkFlags.INLINE, WorkFlags.RETURN, WorkFlags.RETURN, WorkFlags.FENCE]
    wrs["dst"][0], wrs["src"][1], wrs["src"][2] = node.base + 64, node.base + 64, node.base + 65
    wrs["dst"][3], wrs["operand"][3] = node.base + 256, 9
    await call.write(post_frame(wrs, b"hello\0\0\0"))
    rows, data = await completions(call, 4)
    assert rows["wr_id"].tolist() == [70, 70, 2**63, 0]
    assert rows["status"].tolist() == [0] * 4
    assert data == [b"hello", b"ell"]
    assert node.region[256] == 9
    (posted,) = node.posted
    assert posted["pdid"].tolist() == [PDID] * 4  # the stream's, whatever the request says
    assert posted["flags"].tolist() == [0, 0, 0, WorkFlags.FENCE]
    assert await finish(call) is grpc.StatusCode.OK
    assert node.staged == {}


async def test_two_streams_with_the_same_ids_do_not_collide(served: Served) -> None:
    _, node, stubs = served
    node.hold = True
    calls = [stubs.raw("DmaService/Transfer")(metadata=CREDENTIALS) for _ in range(2)]
    for i, call in enumerate(calls):
        wrs = requests(3, op=Op.FETCH_ADD, dst=node.base + 8 * i, length=8, operand=1 + i)
        await call.write(post_frame(wrs))
    await posts(node, 2)
    node._held = [np.concatenate([w[i : i + 1] for i in range(3) for w in node._held])]  # interleaved
    node.release()
    server = served[0]
    assert server.host is not None
    server.host.ask_turn()
    for i, call in enumerate(calls):
        rows, _ = await completions(call, 3)
        assert rows["wr_id"].tolist() == [0, 1, 2]
        assert set(rows["value"].tolist()) == {0, 1 + i, 2 + 2 * i}


async def posts(node: FakeNode, n: int) -> None:
    """Wait until the node has been posted to `n` times."""
    await eventually(lambda: len(node.posted) >= n)


async def test_single_messages_as_a_foreign_client_sends_them(served: Served) -> None:
    _, node, stubs = served
    call = stubs.dma.Transfer(metadata=CREDENTIALS)
    gva = node.base + 4096
    work = [
        node_pb2.WorkRequest(wr_id=1, opcode=node_pb2.OPCODE_WRITE, dst=gva, data=b"foreign"),
        node_pb2.WorkRequest(wr_id=2, opcode=node_pb2.OPCODE_READ, src=gva, length=7, fence=True),
        node_pb2.WorkRequest(wr_id=3, opcode=node_pb2.OPCODE_SWAP, dst=gva, length=8, operand=1),
        node_pb2.WorkRequest(wr_id=4, length=1),
    ]
    await call.write(node_pb2.TransferRequest(work=work[:1]))
    await call.write(node_pb2.TransferRequest(work=work[1:]))
    await call.done_writing()
    answers = {done.wr_id: done async for message in call for done in message.completions}
    assert sorted(answers) == [1, 2, 3, 4]
    assert answers[2].data == b"foreign"
    assert answers[3].value == int.from_bytes(b"foreign\0", "little")
    assert (answers[4].status, answers[4].reason, answers[4].definite) == (
        Status.MALFORMED,
        "MALFORMED",
        True,
    )
    assert answers[1].completed_ns - answers[1].posted_ns == sum(answers[1].timing_ns.values()) == 1234


async def test_large_and_many_returns_come_in_several_messages(served: Served) -> None:
    _, node, stubs = served
    node.region[:] = np.random.default_rng(1).integers(0, 256, len(node.region), np.uint8)
    call = stubs.raw("DmaService/Transfer")(metadata=CREDENTIALS)
    wrs = requests(40, op=Op.READ, flags=WorkFlags.RETURN, length=300_001)
    wrs["src"] = node.base + np.arange(40, dtype=np.uint64) * np.uint64(400_000)
    await call.write(post_frame(wrs))
    rows, data = await completions(call, 40)
    assert sorted(rows["wr_id"].tolist()) == list(range(40))
    for wr_id, piece in zip(rows["wr_id"].tolist(), data, strict=True):
        assert piece == node.region[400_000 * wr_id : 400_000 * wr_id + 300_001].tobytes()
    assert await finish(call) is grpc.StatusCode.OK
    assert node.staged == {}


async def test_returns_that_complete_out_of_order_bring_their_own_bytes(served: Served) -> None:
    server, node, stubs = served
    node.region[:256] = np.arange(256)
    node.hold = True
    call = stubs.raw("DmaService/Transfer")(metadata=CREDENTIALS)
    wrs = requests(6, op=Op.READ, flags=WorkFlags.RETURN, length=[8, 3, 8, 24, 8, 1])
    wrs["src"] = node.base + np.arange(6, dtype=np.uint64) * np.uint64(32)
    wrs["op"][2] = 77  # refused in the middle: has no bytes
    await call.write(post_frame(wrs))
    await posts(node, 1)
    node._held = [node._held[0][[4, 5, 2, 0, 1, 3]]]
    node.release()
    assert server.host is not None
    server.host.ask_turn()
    rows, data = await completions(call, 6)
    assert rows["wr_id"].tolist() == [4, 5, 2, 0, 1, 3]
    assert rows["status"].tolist() == [0, 0, Status.MALFORMED, 0, 0, 0]
    assert data == [bytes(range(32 * i, 32 * i + n)) for i, n in ((4, 8), (5, 1), (0, 8), (1, 3), (3, 24))]


async def test_a_stream_with_too_much_staged_waits_and_goes_on(served: Served) -> None:
    server, node, stubs = served
    node.hold = True
    call = stubs.raw("DmaService/Transfer")(metadata=CREDENTIALS)
    megabyte = bytes(1 << 20)
    n = 24

    async def send() -> None:
        for i in range(n):
            wr = requests(1, op=Op.WRITE, flags=WorkFlags.INLINE, length=1 << 20, dst=node.base)
            wr["wr_id"] = i
            await call.write(post_frame(wr, megabyte))

    sending = asyncio.create_task(send())
    await posts(node, transfer.STAGED_LIMIT >> 20)
    # A later stream is served although the first one waits: the wait is the stream's, not the node's.
    other = stubs.raw("DmaService/Transfer")(metadata=CREDENTIALS)
    await other.write(post_frame(requests(1, op=Op.FETCH_ADD, length=8, dst=node.base)))
    await posts(node, (transfer.STAGED_LIMIT >> 20) + 1)
    assert sum(node.staged.values()) <= transfer.STAGED_LIMIT
    node.hold = False
    node.release()
    assert server.host is not None
    server.host.ask_turn()
    rows, _ = await completions(call, n)
    assert sorted(rows["wr_id"].tolist()) == list(range(n))
    await sending
    assert node.staged == {}
    await completions(other, 1)


async def test_a_request_is_cancelled_by_its_own_id(served: Served) -> None:
    server, node, stubs = served
    node.hold = True
    call = stubs.raw("DmaService/Transfer")(metadata=CREDENTIALS)
    await call.write(
        post_frame(requests(3, op=Op.WRITE, flags=WorkFlags.INLINE, length=8, dst=node.base), bytes(24))
    )
    other = stubs.raw("DmaService/Transfer")(metadata=CREDENTIALS)
    await other.write(post_frame(requests(3, op=Op.FETCH_ADD, length=8, dst=node.base)))
    await posts(node, 2)
    await call.write(node_pb2.TransferRequest(cancel=[1, 77]).SerializeToString())
    rows, _ = await completions(call, 1)
    assert (rows["wr_id"].tolist(), rows["status"].tolist()) == ([1], [Status.CANCELLED])
    await call.write(node_pb2.TransferRequest(cancel=[1]).SerializeToString())  # it is over
    node.hold = False
    node.release()
    assert server.host is not None
    server.host.ask_turn()
    rows, _ = await completions(call, 2)
    assert (sorted(rows["wr_id"].tolist()), rows["status"].tolist()) == ([0, 2], [Status.OK] * 2)
    rows, _ = await completions(other, 3)  # the same ids, of another stream
    assert rows["status"].tolist() == [Status.OK] * 3
    assert node.staged == {}


async def test_a_client_that_goes_away_leaves_nothing_behind(served: Served) -> None:
    server, node, stubs = served
    node.hold = True
    call = stubs.raw("DmaService/Transfer")(metadata=CREDENTIALS)
    await call.write(
        post_frame(requests(1, op=Op.WRITE, flags=WorkFlags.INLINE, length=8, dst=node.base), bytes(8))
    )
    await posts(node, 1)
    call.cancel()
    host = server.host
    assert host is not None
    streams = host.domains.require(PDID).sessions[TOKEN]
    await eventually(lambda: not streams)
    assert len(node.staged) == 1  # the network interface may still read it
    node.release()
    host.ask_turn()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert node.staged == {}
    assert len(host._posters) == 2  # the host's own


@pytest.mark.parametrize(
    ("metadata", "code", "reason"),
    [
        ((), grpc.StatusCode.UNAUTHENTICATED, "MISSING_CREDENTIALS"),
        ((("unimem-pdid", "5"),), grpc.StatusCode.UNAUTHENTICATED, "MISSING_CREDENTIALS"),
        (
            (("unimem-pdid", "-5"), ("unimem-token", TOKEN)),
            grpc.StatusCode.UNAUTHENTICATED,
            "MISSING_CREDENTIALS",
        ),
        ((("unimem-pdid", "6"), ("unimem-token", TOKEN)), grpc.StatusCode.UNAUTHENTICATED, "SESSION_EXPIRED"),
        ((("unimem-pdid", "5"), ("unimem-token", "guess")), grpc.StatusCode.PERMISSION_DENIED, "BAD_TOKEN"),
    ],
)
async def test_who_is_not_let_in(served: Served, metadata: Any, code: grpc.StatusCode, reason: str) -> None:
    call = served[2].raw("DmaService/Transfer")(metadata=metadata)
    got, why, _ = await served[2].refused(call.read())
    assert (got, why) == (code, reason)


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\x0a",
        b"\x0a\x05hello",
        b"\xff\xff\xff\xff",
        b"\x0a\x90\x4e" + bytes(10000),
        post_frame(requests(1, op=Op.WRITE, flags=WorkFlags.INLINE, length=2**63), b"12345678"),
        post_frame(requests(3))[:-1],
    ],
)
async def test_garbage_is_refused_and_the_service_goes_on(served: Served, garbage: bytes) -> None:
    _, node, stubs = served
    call = stubs.raw("DmaService/Transfer")(metadata=CREDENTIALS)
    await call.write(garbage)
    await call.done_writing()
    if garbage:
        code, reason, _ = await stubs.refused(call.read())
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert reason in ("MALFORMED_FRAME", "MALFORMED_MESSAGE")
    else:
        assert await call.code() is grpc.StatusCode.OK  # an empty message asks for nothing
    fine = stubs.raw("DmaService/Transfer")(metadata=CREDENTIALS)
    await fine.write(post_frame(requests(1, op=Op.FETCH_ADD, length=8, dst=node.base)))
    rows, _ = await completions(fine, 1)
    assert rows["status"].tolist() == [Status.OK]


async def test_closing_the_session_ends_its_streams_only(served: Served) -> None:
    _, node, stubs = served
    await stubs.node.OpenDomain(node_pb2.OpenDomainRequest(pdid=PDID, token="second"))
    mine = stubs.raw("DmaService/Transfer")(metadata=CREDENTIALS)
    theirs = stubs.raw("DmaService/Transfer")(metadata=(CREDENTIALS[0], ("unimem-token", "second")))
    for call in (mine, theirs):
        await call.write(post_frame(requests(1, op=Op.SWAP, length=8, dst=node.base)))
        await completions(call, 1)
    await stubs.node.CloseDomain(node_pb2.CloseDomainRequest(pdid=PDID, token=TOKEN))
    assert await mine.code() is grpc.StatusCode.UNAUTHENTICATED
    assert error_info(await mine.trailing_metadata())[0] == "SESSION_EXPIRED"
    await theirs.write(post_frame(requests(1, op=Op.SWAP, length=8, dst=node.base)))
    await completions(theirs, 1)
    await stubs.node.CloseDomain(node_pb2.CloseDomainRequest(pdid=PDID))
    assert await theirs.code() is grpc.StatusCode.UNAUTHENTICATED
    assert node.domains == set()
    await stubs.node.CloseDomain(node_pb2.CloseDomainRequest(pdid=PDID))  # idempotent


async def test_staging_that_does_not_fit_ends_the_stream_with_the_reason(served: Served) -> None:
    _, node, stubs = served
    node.private_bytes = 1 << 16
    call = stubs.raw("DmaService/Transfer")(metadata=CREDENTIALS)
    await call.write(post_frame(requests(1, op=Op.READ, flags=WorkFlags.RETURN, length=1 << 20, src=WINDOW)))
    code, reason, _ = await stubs.refused(call.read())
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "NO_SPACE")
