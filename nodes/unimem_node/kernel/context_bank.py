"""Context banks as the SMMU driver keeps and writes them, and the reasons for which it says no.

The registers of a bank are written in the order of Linux' `arm_smmu_write_context_bank`: 48 bits of input
address by TTBR0, 4 KiB granule, TTBR1 off, 16-bit ASIDs, AArch64 tables; faults raise the interrupt, and
abort the access or stall it.
"""

from __future__ import annotations

from typing import NamedTuple

from unimem_node.bus import Bus
from unimem_node.kernel import smmu_registers as reg
from unimem_node.kernel.processes import Process


class SmmuError(Exception):
    """The driver cannot do what was asked of it."""


class NoContextBank(SmmuError):  # noqa: N818 - says what is missing
    """Every context bank is taken. Whoever asked has to detach something first."""


class NoStreamMatch(SmmuError):  # noqa: N818
    """Every stream match group is taken. One entry with a mask covers many streams of a port."""


class StreamConflict(SmmuError, ValueError):  # noqa: N818
    """The stream is already routed elsewhere, or its mask overlaps an entry in part."""


class SmmuUnsuited(SmmuError):  # noqa: N818
    """The SMMU lacks what this driver needs; its identification registers say so."""


class SmmuTimeout(SmmuError):  # noqa: N818
    """A TLB sync does not end: the hardware is broken."""


class Tables(NamedTuple):
    """Page tables for a bank to walk: whose, with which ASID; `process` is None for a static domain."""

    owner: str
    asid: int
    root: int
    process: Process | None


class Bank:
    """A context bank in use; `page` is the address of its registers.

    `held`: an access is stalled in it and the kernel has taken it over, to resume it later.
    """

    __slots__ = ("entries", "held", "index", "page", "tables")

    def __init__(self, index: int, page: int, tables: Tables) -> None:
        self.index = index
        self.page = page
        self.tables = tables
        self.entries = 0  # stream entries that lead here
        self.held = False


def write_bank(bus: Bus, bank: Bank, space_1: int, output_size: int, on_fault: int) -> None:
    """Let a bank walk its tables; `space_1`: address of global space 1, `output_size`: IDR2.OAS.

    `on_fault`: CFCFG and HUPCF of SCTLR.
    """
    page, index, tables = bank.page, bank.index, bank.tables
    bus.write32(space_1 + reg.CBA2R + 4 * index, reg.CBA2R_VA64)
    cbar = reg.CBAR_S1_S2_BYPASS | reg.CBAR_BPSHCFG_NON | reg.CBAR_MEMATTR_WB
    bus.write32(space_1 + reg.CBAR + 4 * index, cbar)
    bus.write32(page + reg.TCR2, output_size | reg.TCR2_AS | reg.TCR2_SEP_UPSTREAM)
    walks = reg.TCR_IRGN0_WBWA | reg.TCR_ORGN0_WBWA | reg.TCR_SH0_INNER
    bus.write32(page + reg.TCR, reg.TCR_T0SZ_48_BITS | walks | reg.TCR_EPD1)
    bus.write64(page + reg.TTBR0, tables.asid << reg.TTBR_ASID_SHIFT | tables.root)
    bus.write64(page + reg.TTBR1, tables.asid << reg.TTBR_ASID_SHIFT)
    bus.write32(page + reg.MAIR0, reg.MAIR0_VALUE)
    bus.write32(page + reg.MAIR1, 0)
    write_control(bus, bank, on_fault)


def write_control(bus: Bus, bank: Bank, on_fault: int) -> None:
    """Let a bank translate, and do `on_fault` (CFCFG and HUPCF of SCTLR) with accesses that fault.

    FSR.SS holds the interrupt until RESUME, and other banks share it: while an access is `held`, this bank's
    interrupt is off (as Linux' arm-smmu does since 2025).
    """
    report = reg.SCTLR_CFRE | (0 if bank.held else reg.SCTLR_CFIE) | on_fault
    translate = reg.SCTLR_AFE | reg.SCTLR_TRE | reg.SCTLR_ASIDPNE | reg.SCTLR_M
    bus.write32(bank.page + reg.SCTLR, report | translate)
