"""What `unimem regs` makes of register tables and values; with real nodes: tests/e2e/test_regs.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from unimem.errors import UsageError
from unimem.v1 import node_pb2 as pb
from unimem_lab.meanings import MEANINGS, OTHER_FORMS
from unimem_lab.registers import Block, Query, RegisterValue, as_json, choice, field_words
from unimem_node.mpsoc.platform import load
from unimem_node.smmu.registers import smmu_table

BASE = 0xFD80_0000


def fields(*rows: tuple[str, int, int]) -> list[pb.FieldInfo]:
    return [pb.FieldInfo(name=name, high=high, low=low) for name, high, low in rows]


TABLE = [
    pb.RegisterInfo(
        name="CR0", offset=0, size=4, count=1, reset=0x20_0001, fields=fields(("CLIENTPD", 0, 0))
    ),
    pb.RegisterInfo(
        name="SMR",
        offset=0x800,
        size=4,
        count=4,
        stride=4,
        fields=fields(("VALID", 31, 31), ("MASK", 30, 16), ("ID", 14, 0)),
    ),
    pb.RegisterInfo(
        name="S2CR",
        offset=0xC00,
        size=4,
        count=4,
        stride=4,
        reset=0x2_0000,
        fields=fields(("TYPE", 17, 16), ("CBNDX", 7, 0)),
    ),
    pb.RegisterInfo(
        name="CBAR",
        offset=0x1000,
        size=4,
        count=2,
        stride=4,
        reset=0x2_0000,
        fields=fields(("TYPE", 17, 16), ("BPSHCFG", 9, 8), ("VMID", 7, 0)),
    ),
    pb.RegisterInfo(
        name="CBFRSYNRA", offset=0x1400, size=4, count=2, stride=4, fields=fields(("STREAM_ID", 14, 0))
    ),
    pb.RegisterInfo(
        name="CB_TTBR0",
        offset=0x10020,
        size=8,
        count=2,
        stride=0x1000,
        fields=fields(("ASID", 63, 48), ("BASE", 47, 1)),
    ),
    pb.RegisterInfo(
        name="CB_TCR",
        offset=0x10030,
        size=4,
        count=2,
        stride=0x1000,
        fields=fields(("T0SZ", 5, 0), ("SH1", 29, 28)),
    ),
    pb.RegisterInfo(
        name="PMCGCR", offset=0x3800, size=4, count=2, stride=4, reset=0x400_0000, reset_step=0x1_0000
    ),
]
STREAMS = [
    pb.StreamRange(first=0x200, count=64, name="port HPC0", member="AXI ID"),
    pb.StreamRange(first=0x200, count=1, name="cdma0"),
    pb.StreamRange(first=0x210, count=16, name="ni", member="slot"),
    pb.StreamRange(first=0x14E8, count=1, name="fpd0"),
]


class Node:
    """The far end of a `Link`: a device of words; unset ones are as out of reset."""

    def __init__(self, words: dict[int, int], what: str = "MMU-500") -> None:
        self.node = SimpleNamespace(name="n0")
        self.what = what
        self.pages: list[int] = []
        self.words: dict[int, int] = {}
        for register in TABLE:
            for index in range(register.count):
                at = register.offset + index * register.stride
                self.words[at] = register.reset + index * register.reset_step
        self.words |= words

    def bus(self, method: str, request: Any) -> Any:
        device = pb.BusDevice(name="smmu", base=BASE, size=0x20000, what=self.what)
        if method == "ListDevices":
            return pb.ListDevicesResponse(devices=[device], streams=STREAMS)
        if method == "DescribeDevice":
            return pb.DescribeDeviceResponse(device=device, registers=TABLE)
        assert (method, request.peek, request.width) == ("Read", True, 0)
        start = request.address - BASE
        self.pages.append(start)
        words = (self.words.get(at, 0) & 0xFFFF_FFFF for at in range(start, start + request.length, 4))
        return pb.ReadResponse(data=b"".join(word.to_bytes(4, "little") for word in words))


def shown(node: Node, text: str) -> dict[str, RegisterValue]:
    return {value.name: value for value in Block(node, Query.parse(text)).values()}  # type: ignore[arg-type]


def words_of(node: Node, text: str) -> dict[str, str]:
    return {name: field_words(value) for name, value in shown(node, text).items()}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("smmu:CR0", ["CR0"]),
        ("smmu:cr0", ["CR0"]),
        ("smmu:CB_T*[1]", ["CB_TTBR0[1]", "CB_TCR[1]"]),
        ("smmu:S?R[3]", ["SMR[3]"]),
        ("smmu/smr", [f"SMR[{n}]" for n in range(4)] + [f"S2CR[{n}]" for n in range(4)]),
        ("smmu/smr:S2CR", [f"S2CR[{n}]" for n in range(4)]),
        ("smmu/cb1", ["CBAR[1]", "CBFRSYNRA[1]", "CB_TTBR0[1]", "CB_TCR[1]"]),
        ("smmu/gr1", ["CBAR[0]", "CBAR[1]", "CBFRSYNRA[0]", "CBFRSYNRA[1]"]),
        ("smmu/gr0:C*", ["CR0"]),
        ("smmu/pm", ["PMCGCR[0]", "PMCGCR[1]"]),
        ("smmu/smr2", ["SMR[2]"]),
    ],
)
def test_blocks_name_registers(text: str, names: list[str]) -> None:
    assert list(shown(Node({}), text)) == names


@pytest.mark.parametrize("text", ["", ":CR0", "smmu:", "smmu/", "/cb0"])
def test_what_names_no_block_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="names no block"):
        Query.parse(text)


@pytest.mark.parametrize("text", ["smmu:NOSUCH", "smmu/cb2", "smmu:SMR[4]", "smmu/nothing", "smmu:S2CR[x]"])
def test_registers_that_are_not_there_are_refused_with_those_that_are(text: str) -> None:
    with pytest.raises(UsageError, match="smmu has no register") as caught:
        shown(Node({}), text)
    assert "cb0, cb1" in str(caught.value)
    assert "CB_TTBR0" in str(caught.value)


def test_values_are_read_a_page_at_a_time_and_each_once() -> None:
    node = Node({})
    shown(node, "smmu/cb1")
    assert sorted(node.pages) == [0x1000, 0x11000]


def test_a_register_knows_its_reset_and_place() -> None:
    value = shown(Node({0x10020 + 0x1000: 0x8000, 0x10024 + 0x1000: 0x5_0000}), "smmu:CB_TTBR0[1]")[
        "CB_TTBR0[1]"
    ]
    assert (value.address, value.value, value.reset) == (BASE + 0x11020, 0x5_0000_0000_8000, 0)
    assert field_words(value) == "ASID=0x5 · BASE=0x4000 (0x8000)"
    assert shown(Node({}), "smmu:PMCGCR[1]")["PMCGCR[1]"].reset == 0x401_0000


def test_stream_ids_are_names() -> None:
    node = Node({0x800: 0x8000_0200, 0x804: 0x803F_0200, 0x808: 0x8000_0300, 0x1400: 0x14E8, 0x1404: 0x213})
    words = words_of(node, "smmu:SMR")
    assert words["SMR[0]"] == "VALID · ID=0x200 (cdma0 (port HPC0 AXI ID 0))"
    assert words["SMR[1]"] == "VALID · MASK=0x3f · ID=0x200 (streams of port HPC0, cdma0, ni)"
    assert words["SMR[2]"] == "VALID · ID=0x300 (nobody's stream)"
    assert words["SMR[3]"] == ""
    faulted = words_of(node, "smmu:CBFRSYNRA")
    assert faulted["CBFRSYNRA[0]"] == "STREAM_ID=0x14e8 (fpd0)"
    assert faulted["CBFRSYNRA[1]"] == "STREAM_ID=0x213 (ni slot 3 (port HPC0 AXI ID 19))"


def test_values_have_meanings_and_zeros_too_where_they_are_a_choice() -> None:
    words = words_of(Node({0x0: 0x20_0001, 0xC00: 3, 0xC04: 0x1_0000}), "smmu:*")
    assert words["CR0"] == "CLIENTPD (everything bypasses)"
    assert words["S2CR[0]"] == "TYPE=0 (translate) · CBNDX=0x3"
    assert words["S2CR[1]"] == "TYPE=1 (bypass)"
    assert words["S2CR[2]"] == "TYPE=2 (fault)"


def test_registers_of_other_kinds_of_bank_have_their_other_form() -> None:
    nested = Node({0x1000: 0x3_0105, 0x1004: 0x0_0007, 0x10030: 0x19, 0x11030: 0x8005_0058})
    words = words_of(nested, "smmu/gr1:CBAR")
    assert words["CBAR[0]"] == "TYPE=3 (stage 1 nested) · CBNDX=0x1 · VMID=0x5"
    assert words["CBAR[1]"] == "TYPE=0 (stage 2) · VMID=0x7"
    tcr = words_of(nested, "smmu:CB_TCR")
    assert tcr["CB_TCR[0]"] == "T0SZ=0x19 (39-bit input) · SH1=0 (non-shareable)"
    assert "SL0=1" in tcr["CB_TCR[1]"]
    assert "PASIZE=5 (48-bit output)" in tcr["CB_TCR[1]"]


def test_other_devices_are_not_taken_for_an_smmu() -> None:
    words = words_of(Node({0x800: 0x8000_0200}, what="ZDMA channel"), "smmu:SMR[0]")
    assert words == {"SMR[0]": "VALID · ID=0x200"}


@pytest.mark.parametrize(
    ("doc", "value", "meaning"),
    [
        ("0 simple, 1 scatter-gather", 1, "scatter-gather"),
        ("0 read and write, 1 write-only, 2 read-only", 0, "read and write"),
        ("scatter-gather: 0 next, 1 pause, 2 stop", 2, "stop"),
        ("0 done, 1 paused", 3, ""),
        ("bytes of 32 words", 32, ""),
        ("", 0, ""),
    ],
)
def test_a_tables_own_words_say_what_values_mean(doc: str, value: int, meaning: str) -> None:
    assert choice(doc, value) == meaning


def test_json_has_every_field() -> None:
    value = as_json(shown(Node({0xC00: 3}), "smmu:S2CR[0]")["S2CR[0]"])
    assert (value["name"], value["value"], value["reset"], value["address"]) == (
        "S2CR[0]",
        3,
        0x2_0000,
        BASE + 0xC00,
    )
    assert value["fields"] == [
        {"name": "TYPE", "high": 17, "low": 16, "value": 0, "meaning": "translate"},
        {"name": "CBNDX", "high": 7, "low": 0, "value": 3},
    ]


def test_every_meaning_is_of_a_field_that_the_smmu_has() -> None:
    table = {register.name: register for register in smmu_table(load("zynqmp").smmu.block)}
    for name in MEANINGS:
        register, _, field = name.partition(".")
        table[register].field(field)  # KeyError names both
    for register, _ in OTHER_FORMS:
        assert register in table
