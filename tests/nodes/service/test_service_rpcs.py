"""NodeService and BusService as a gRPC client sees them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from support.fake_coordinator import FakeCoordinator
from support.service_harness import PDID, TOKEN, Stubs, node_server
from unimem.v1 import node_pb2 as pb
from unimem_node.bus.registers import Register, RegisterFile

pytestmark = pytest.mark.asyncio

INVALID, MISSING = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
DEVICE = 0x9000_0000


@pytest_asyncio.fixture
async def served() -> AsyncIterator[Any]:
    coordinator = FakeCoordinator()
    await coordinator.start()
    async with node_server(coordinator) as running:
        yield running
    await coordinator.stop()


async def test_domains_and_memory(served: Any) -> None:
    _, node, stubs = served
    assert (await stubs.node.OpenDomain(pb.OpenDomainRequest(pdid=PDID, token=TOKEN))).asid == PDID
    again = await stubs.node.OpenDomain(pb.OpenDomainRequest(pdid=PDID))
    assert again.asid == PDID
    await stubs.node.MapRegion(
        pb.MapRegionRequest(gva=node.base, length=4096, pdid=PDID, rights="RIGHTS_READ_WRITE", owner=True)
    )
    await stubs.node.UnmapRegion(pb.UnmapRegionRequest(gva=node.base))
    mapped = await stubs.node.MapMemory(pb.MapMemoryRequest(pdid=PDID, length=64, rights="RIGHTS_READ"))
    assert mapped.va == 0x1000
    await stubs.node.ProtectMemory(
        pb.ProtectMemoryRequest(pdid=PDID, va=0x1000, length=64, rights="RIGHTS_READ_WRITE")
    )
    await stubs.node.UnmapMemory(pb.UnmapMemoryRequest(pdid=PDID, va=0x1000, length=64))
    assert node.calls == [
        ("map_region", PDID, node.base, 4096, 3, True),
        ("unmap_region", node.base, 0),
        ("map_memory", PDID, 64, 0, 1),
        ("protect_memory", PDID, 0x1000, 64, 3),
        ("unmap_memory", PDID, 0x1000, 64),
    ]
    await stubs.node.WriteMemory(pb.WriteMemoryRequest(pdid=PDID, va=node.base, data=b"bytes"))
    read = await stubs.node.ReadMemory(pb.ReadMemoryRequest(pdid=PDID, va=node.base, length=5))
    assert read.data == b"bytes"


async def test_advice_is_the_kernels_own_word(served: Any) -> None:
    _, node, stubs = served
    await stubs.node.OpenDomain(pb.OpenDomainRequest(pdid=PDID))
    node.calls.clear()
    told = await stubs.node.Advise(
        pb.AdviseRequest(pdid=PDID, va=node.base, length=8192, advice="ADVICE_PAGEOUT")
    )
    assert told.pages == 2
    assert node.calls == [("advise", PDID, node.base, 8192, "PAGEOUT")]
    for wrong in (
        pb.AdviseRequest(pdid=PDID, va=node.base, length=4096, advice=99),  # type: ignore[arg-type]
        pb.AdviseRequest(pdid=PDID, va=node.base, advice="ADVICE_LOCK"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stubs.node.Advise(wrong)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stubs.node.Advise(pb.AdviseRequest(pdid=PDID + 1, va=0x1000, length=1, advice="ADVICE_LOCK"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_status(served: Any) -> None:
    server, node, stubs = served
    await stubs.node.OpenDomain(pb.OpenDomainRequest(pdid=9))
    node.soc.interrupts.line(155).set(True)
    node.soc.scheduler.advance_to(5_000_999)
    status = await stubs.node.GetStatus(pb.GetStatusRequest())
    assert (status.node.name, status.node.address, status.node.incarnation) == ("n0", server.address, 1)
    assert dict(status.counters) == {"walks": 7}
    assert (status.virtual_time_ns, status.resident_bytes) == (5_000, 4096)
    assert list(status.pdids) == [9]
    assert list(status.pending_interrupts) == [155]


@pytest.mark.parametrize(
    ("method", "request_", "code", "reason"),
    [
        ("OpenDomain", pb.OpenDomainRequest(pdid=0), INVALID, "INVALID_ARGUMENT"),
        ("OpenDomain", pb.OpenDomainRequest(pdid=65536), INVALID, "INVALID_ARGUMENT"),
        ("MapRegion", pb.MapRegionRequest(gva=1 << 36, length=1, pdid=77), MISSING, "UNKNOWN_DOMAIN"),
        ("MapRegion", pb.MapRegionRequest(gva=1 << 36, pdid=PDID), INVALID, "INVALID_ARGUMENT"),
        (
            "MapRegion",
            pb.MapRegionRequest(gva=1 << 36, length=1 << 40, pdid=PDID, owner=True),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "NO_SPACE",
        ),
        (
            "ReadMemory",
            pb.ReadMemoryRequest(pdid=PDID, va=1 << 36, length=(1 << 20) + 1),
            INVALID,
            "TOO_LONG",
        ),
        (
            "ReadMemory",
            pb.ReadMemoryRequest(pdid=PDID, va=1 << 47, length=8),
            grpc.StatusCode.FAILED_PRECONDITION,
            "CPU_FAULT",
        ),
        ("ReadMemory", pb.ReadMemoryRequest(pdid=1, va=1 << 36, length=1), MISSING, "UNKNOWN_DOMAIN"),
        ("WriteMemory", pb.WriteMemoryRequest(pdid=PDID, va=1 << 36), INVALID, "INVALID_ARGUMENT"),
        ("MapMemory", pb.MapMemoryRequest(pdid=PDID), INVALID, "INVALID_ARGUMENT"),
    ],
)
async def test_bad_requests_are_refused_with_a_reason(
    served: Any, method: str, request_: Any, code: grpc.StatusCode, reason: str
) -> None:
    stubs: Stubs = served[2]
    await stubs.node.OpenDomain(pb.OpenDomainRequest(pdid=PDID))
    got, why, _ = await stubs.refused(getattr(stubs.node, method)(request_))
    assert (got, why) == (code, reason)


async def test_the_bus_is_a_console(served: Any) -> None:
    _, node, stubs = served
    registers = RegisterFile("device", 0x1000, (Register("CTRL", 0), Register("LONG", 8, size=8)))
    node.soc.bus.attach("device", DEVICE, 0x1000, registers)
    ran = []
    registers.on_write("CTRL", lambda *_: node.soc.scheduler.after(1000, lambda: ran.append(True)))
    await stubs.bus.Write(pb.WriteRequest(address=DEVICE, width=4, value=0x8000_0001))
    assert ran == [True]  # what the write started has been done
    assert (await stubs.bus.Read(pb.ReadRequest(address=DEVICE, width=4))).value == 0x8000_0001
    await stubs.bus.Write(pb.WriteRequest(address=DEVICE + 8, width=8, value=2**64 - 1))
    assert (await stubs.bus.Read(pb.ReadRequest(address=DEVICE + 8, width=8))).value == 2**64 - 1
    await stubs.bus.Write(pb.WriteRequest(address=0x123, data=b"in memory"))
    assert (await stubs.bus.Read(pb.ReadRequest(address=0x123, length=9))).data == b"in memory"


@pytest.mark.parametrize(
    ("request_", "code", "reason"),
    [
        (pb.ReadRequest(address=0x5000_0000, width=4), grpc.StatusCode.OUT_OF_RANGE, "BUS_DECERR"),
        (pb.ReadRequest(address=0, width=3), INVALID, "BAD_WIDTH"),
        (pb.ReadRequest(address=0), INVALID, "BAD_WIDTH"),
        (pb.ReadRequest(address=0, width=4, length=4), INVALID, "INVALID_ARGUMENT"),
        (pb.ReadRequest(address=0, length=1 << 30), INVALID, "TOO_LONG"),
        (pb.WriteRequest(address=0, width=4, value=1 << 32), INVALID, "INVALID_ARGUMENT"),
        (pb.WriteRequest(address=2**64 - 4, data=b"12345678"), grpc.StatusCode.OUT_OF_RANGE, "BUS_DECERR"),
    ],
)
async def test_bad_bus_accesses(served: Any, request_: Any, code: grpc.StatusCode, reason: str) -> None:
    stubs: Stubs = served[2]
    method = stubs.bus.Read if isinstance(request_, pb.ReadRequest) else stubs.bus.Write
    got, why, _ = await stubs.refused(method(request_))
    assert (got, why) == (code, reason)


async def test_a_protobuf_of_garbage_is_refused_by_every_method(served: Any) -> None:
    stubs: Stubs = served[2]
    channel: Any = stubs.channel
    for service in ("NodeService", "BusService"):
        for method in pb.DESCRIPTOR.services_by_name[service].methods:
            call = channel.unary_unary(f"/unimem.v1.{service}/{method.name}")(b"\xff\x00garbage")
            code, reason, _ = await stubs.refused(call)
            assert (code, reason) == (INVALID, "MALFORMED_MESSAGE"), method.name
    assert (await stubs.node.GetStatus(pb.GetStatusRequest())).node.name == "n0"
