"""A debugger's view of real node processes: `unimem regs`, and interrupts as they come, relayed too."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from unimem.v1 import node_pb2 as pb
from unimem.v1.node_pb2_grpc import BusServiceStub
from unimem_lab import ProcessCluster

pytestmark = pytest.mark.timeout(180)

LPD0, LPD0_SPI, LPD0_STREAM = 0xFFA8_0000, 60, 0x210  # Versal's
SMMU, SMMU_SPI = 0xFD80_0000, 107


@pytest.fixture(scope="module")
def cluster() -> Iterator[ProcessCluster]:
    with ProcessCluster(nodes=2, platform="versal") as running, running.client(home="n0") as um:
        um.put(um.alloc(4096, node="n1"), b"through n1's SMMU")
        yield running


def unimem(cluster: ProcessCluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "unimem_lab.cli", *arguments, "--on", cluster.address]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def answer(cluster: ProcessCluster, *arguments: str) -> Any:
    done = unimem(cluster, *arguments, "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(done.stdout)


def registers(cluster: ProcessCluster, *arguments: str) -> dict[str, Any]:
    return {one["name"]: one for one in answer(cluster, "regs", "n1", *arguments)["registers"]}


def fields(register: Any) -> dict[str, Any]:
    return {field["name"]: field for field in register["fields"]}


def test_the_blocks_are_those_of_the_nodes_platform(cluster: ProcessCluster) -> None:
    about = answer(cluster, "regs", "n1")
    assert (about["platform"], about["reached"], about["pending_interrupts"]) == ("versal", "direct", [])
    blocks = {block["name"]: block for block in about["blocks"]}
    assert sorted(blocks) == ["cdma0", *(f"lpd{n}" for n in range(8)), "ni", "smmu", "smmu_reg"]
    assert (blocks["smmu"]["base"], blocks["smmu"]["size"]) == (SMMU, 0x4_0000)
    assert blocks["smmu"]["spis"] == [SMMU_SPI]
    assert blocks["ni"]["streams"] == [{"first": 0x850, "count": 16}]
    shown = unimem(cluster, "regs", "n1").stdout
    assert "0xfd80_0000" in shown
    assert "MMU-500" in shown


def test_what_the_kernel_has_set_up_is_seen_by_field(cluster: ProcessCluster) -> None:
    smr = registers(cluster, "smmu/smr")
    assert fields(smr["SMR[0]"])["ID"]["value"] == 0x850
    assert fields(smr["SMR[0]"])["ID"]["meaning"] == "ni slot 0 (port PL_ACELITE_FPD AXI ID 16)"
    assert fields(smr["S2CR[0]"])["TYPE"]["meaning"] == "translate"
    bank = registers(cluster, "smmu/cb0")
    assert fields(bank["CB_TCR[0]"])["T0SZ"]["meaning"] == "48-bit input"
    assert fields(bank["CBA2R[0]"])["VA64"]["meaning"] == "AArch64 tables"
    assert all(one["value"] != one["reset"] for one in bank.values())
    shown = unimem(cluster, "regs", "n1", "smmu/cb0").stdout
    assert "CB_TTBR0[0]" in shown
    assert "--all shows them" in shown


def test_all_of_a_bank(cluster: ProcessCluster) -> None:
    everything = answer(cluster, "regs", "n1", "smmu/cb31", "--all")
    assert everything["as_reset"] == 0
    assert {"CB_SCTLR[31]", "CBAR[31]", "CB_FSR[31]"} <= {one["name"] for one in everything["registers"]}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("n9",), "no node is called 'n9'; known: n0, n1"),
        (("n1", "smmu2"), "no device is called 'smmu2'; there are"),
        (("n1", "smmu:NOSUCH"), "smmu has no register 'NOSUCH'"),
        (("n1", "smmu/"), "names no block"),
    ],
)
def test_what_is_not_there_is_one_clear_line(
    cluster: ProcessCluster, arguments: tuple[str, ...], says: str
) -> None:
    done = unimem(cluster, "regs", *arguments)
    assert done.returncode == 3
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def watched(call: Any, count: int) -> list[tuple[int, bool]]:
    return [(one.spi, one.level) for _, one in zip(range(count), call, strict=False)]


@pytest.mark.parametrize("relayed", [False, True], ids=["direct", "relayed"])
def test_interrupts_of_a_real_chip_come_as_events(cluster: ProcessCluster, relayed: bool) -> None:
    """Nobody routed the channel's stream: the SMMU's line rises, the kernel serves it, it falls."""
    nodes = {n["name"]: n["address"] for n in answer(cluster, "status")["nodes"]}
    metadata = (("unimem-node", "n1"),) if relayed else ()
    with grpc.insecure_channel(cluster.address if relayed else nodes["n1"]) as channel:
        bus: Any = BusServiceStub(channel)  # type: ignore[no-untyped-call]
        call = bus.WatchInterrupts(
            pb.WatchInterruptsRequest(spis=[SMMU_SPI, LPD0_SPI]), timeout=20, metadata=metadata
        )
        assert dict(call.initial_metadata())["unimem-node"] == "n1"
        for offset, value in ((0x128, 0x10_0000), (0x138, 0x20_0000), (0x130, 64), (0x200, 1)):
            write = pb.WriteRequest(address=LPD0 + offset, width=4, value=value)
            bus.Write(write, timeout=20, metadata=metadata)
        levels = watched(call, 4)
        assert sorted(levels) == [(60, False), (60, True), (107, False), (107, True)]
        assert levels.index((107, True)) < levels.index((107, False))
        assert levels.index((60, True)) < levels.index((60, False))
        # The record is gone from GFSR, which the kernel has cleared; whose it was is still there.
        peek = pb.ReadRequest(address=SMMU + 0x54, width=4, peek=True)
        assert bus.Read(peek, timeout=20, metadata=metadata).value & 0x7FFF == LPD0_STREAM
        call.cancel()
    stream = fields(registers(cluster, "smmu:GFSYNR1")["GFSYNR1"])["STREAM_ID"]
    assert stream["meaning"] == "lpd0"


def test_a_node_that_is_gone_is_not_known_about(cluster: ProcessCluster) -> None:
    cluster.kill("n0")
    done = unimem(cluster, "regs", "n0")
    assert done.returncode == 2
    assert "cannot be reached" in done.stderr
    assert json.loads(unimem(cluster, "regs", "n0", "--json").stdout)["error"]["message"]


def test_a_stream_calculator_both_ways() -> None:
    def stream(*arguments: str) -> tuple[int, Any]:
        command = [sys.executable, "-m", "unimem_lab.cli", "stream", *arguments, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, json.loads(done.stdout)

    expected = {"platform": "zynqmp", "stream": 0x203, "tbu": 0, "master_id": 0x203}
    assert stream("0x203") == (0, expected | {"whose": "port HPC0 AXI ID 3"})
    assert stream("--port", "HPC0", "--axi-id", "3") == (0, expected | {"whose": "port HPC0 AXI ID 3"})
    code, found = stream("0x14e9")
    assert (code, found["whose"], found["tbu"]) == (0, "fpd1", 5)
    code, found = stream("--platform", "stratix10", "--port", "F2H", "--axi-id", "0x51".removeprefix("0x"))
    assert (code, found["whose"]) == (0, "port F2H AXI ID 51")
    assert stream("0x7fff")[0] == 1
    assert stream("--port", "ACP")[0] == 1
    for bad, says in (
        (("0x8000",), "no stream ID"),
        (("five",), "no stream ID"),
        (("--port", "HP9"), "has no port 'HP9'"),
        (("--port", "HP0", "--axi-id", "64"), "64 AXI IDs"),
        (("5", "--port", "HP0"), "not both"),
        (("5", "--platform", "nosuch"), "no platform 'nosuch'"),
    ):
        code, refusal = stream(*bad)
        assert code == 3
        assert says in refusal["error"]["message"]
