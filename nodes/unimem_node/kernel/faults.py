"""What the SMMU recorded of a refused access, read from its registers and put into words.

SMMUv2 (Arm IHI0062): SMMU_CBn_FSR, FAR, FSYNR0, IPAFAR and CBFRSYNRA for a context bank, sGFSR, sGFAR,
sGFSYNR0 and sGFSYNR1 for what happens before one is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

from unimem.addresses import fmt
from unimem_node.bus import Bus
from unimem_node.kernel import smmu_registers as reg


@dataclass(frozen=True, slots=True)
class FaultReport:
    """One fault record, as it was when the interrupt was taken.

    `number` counts the reports of a node from 1. `context_bank` and `asid` are None for a global fault,
    `pdid` also when the bank belongs to no process; `level` is None, and `stage` 0, where no walk was made.
    `multiple`: more faults came before this record was read, and left none of their own.

    Of stage 2, `ipa` is the address it was asked for: the descriptor's if it refused a `walk` of stage 1.
    `stage_1_bank`: the bank of stage 1, if the access came through one. `stalled`: it waits for RESUME.
    """

    kind: str
    access: str  # "read" | "write"
    iova: int
    stream_id: int
    context_bank: int | None
    stage: int
    level: int | None
    privileged: bool
    multiple: bool
    fsr: int
    fsynr0: int
    number: int = 0
    time_ps: int = 0
    stream_name: str = ""
    asid: int | None = None
    pdid: int | None = None
    instruction: bool = False
    ipa: int | None = None
    stage_1_bank: int | None = None
    walk: bool = False
    stalled: bool = False

    @property
    def text(self) -> str:
        """Return the report as one line."""
        where = f", stage {self.stage}, level {self.level}" if self.level is not None else ""
        where += ", walking stage 1" if self.walk else ""
        name = f" ({self.stream_name})" if self.stream_name else ""
        verb = "instruction fetch" if self.instruction else self.access
        line = f"{self.kind}{where}: {verb} of {fmt(self.iova)}"
        line += f" (IPA {fmt(self.ipa)})" if self.ipa is not None else ""
        line += f" by stream {self.stream_id:#x}{name}"
        if self.context_bank is not None:
            line += f" in context bank {self.context_bank}"
            line += f" under bank {self.stage_1_bank}" if self.stage_1_bank is not None else ""
            if self.pdid is not None:
                line += f" of process {self.pdid}" if self.pdid else f" of a process (ASID {self.asid})"
            line += f" [FSR {fmt(self.fsr)} FSYNR0 {fmt(self.fsynr0)}]"
        else:
            line += f" [sGFSR {fmt(self.fsr)} sGFSYNR0 {fmt(self.fsynr0)}]"
        line += ", stalled" if self.stalled else ""
        return line + (", and more that left no record" if self.multiple else "")

    def __str__(self) -> str:
        return self.text


def read_context_fault(bus: Bus, page: int, space_1: int, index: int, fsr: int) -> FaultReport:
    """Read what context bank `index` recorded besides `fsr`; its registers are at `page`."""
    synr = bus.read32(page + reg.FSYNR0)
    second = bus.read32(space_1 + reg.CBAR + 4 * index) & reg.CBAR_TYPE == reg.CBAR_STAGE_2
    return FaultReport(
        kind=_kind(fsr, reg.FSR_KINDS),
        access="write" if synr & reg.FSYNR0_WNR else "read",
        iova=bus.read64(page + reg.FAR),
        stream_id=bus.read32(space_1 + reg.CBFRSYNRA + 4 * index) & reg.STREAM_MASK,
        context_bank=index,
        stage=2 if second else 1,
        level=synr & reg.FSYNR0_PLVL,
        privileged=bool(synr & reg.FSYNR0_PNU),
        multiple=bool(fsr & reg.MULTI),
        fsr=fsr,
        fsynr0=synr,
        instruction=bool(synr & reg.FSYNR0_IND),
        ipa=bus.read64(page + reg.IPAFAR) if second else None,
        stage_1_bank=_stage_1_bank(bus, space_1, index, synr) if second else None,
        walk=bool(synr & reg.FSYNR0_PTWF),
        stalled=bool(fsr & reg.FSR_SS),
    )


def _stage_1_bank(bus: Bus, space_1: int, index: int, synr: int) -> int | None:
    """Return the bank that a stage-2 fault came through.

    FSYNR0.S1CBNDX is zero where there was none, and of bank 0: it is believed if that bank nests in this one.
    """
    first = synr >> reg.FSYNR0_S1CBNDX_SHIFT & 0xFF
    cbar = bus.read32(space_1 + reg.CBAR + 4 * first)
    nests = cbar & reg.CBAR_TYPE == reg.CBAR_NESTED and cbar >> reg.CBAR_CBNDX_SHIFT & 0xFF == index
    return first if nests else None


def read_global_fault(bus: Bus, base: int, gfsr: int) -> FaultReport:
    """Read what the global registers recorded besides `gfsr`."""
    synr = bus.read32(base + reg.GFSYNR0)
    return FaultReport(
        kind=_kind(gfsr, reg.GFSR_KINDS),
        access="write" if synr & reg.GFSYNR0_WNR else "read",
        iova=bus.read64(base + reg.GFAR),
        stream_id=bus.read32(base + reg.GFSYNR1) & reg.STREAM_MASK,
        context_bank=None,
        stage=0,
        level=None,
        privileged=bool(synr & reg.GFSYNR0_PNU),
        multiple=bool(gfsr & reg.MULTI),
        fsr=gfsr,
        fsynr0=synr,
        instruction=bool(synr & reg.GFSYNR0_IND),
    )


def _kind(value: int, kinds: tuple[tuple[int, str], ...]) -> str:
    return " and ".join(name for bit, name in kinds if value & bit) or "fault"
