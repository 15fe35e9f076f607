"""What a platform says about its SMMU: how many of what, how large, how fast.

The MMU-500's sizes are configuration options of the block (Arm DDI0517); the platform's TOML supplies them,
this class checks them. Defaults are those of the `zynqmp` profile.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from unimem_node.mmu.regime import IPS_BITS, STAGE_1, STAGE_2

MAX_TBUS: Final = 32
MAX_STREAM_BITS: Final = 15
#: Bits of an input address by IDR2.UBS.
UPSTREAM_BITS: Final = (32, 36, 40, 42, 44, 49, 49, 49)
MAX_MICRO_TLB: Final = 128  # the hash index (`arrays.BUCKETS`) is made for this


@dataclass(frozen=True, slots=True)
class SmmuTiming:
    """Latencies in picoseconds: translation, memory, maintenance; and limits of what is under way."""

    micro_hit_ps: int = 6_000  # 2 clocks at 333 MHz
    macro_hit_ps: int = 30_000
    descriptor_read_ps: int = 60_000
    memory_latency_ps: int = 60_000
    memory_ps_per_kib: int = 80_000
    # What follows is not published for the MMU-500.
    invalidate_ps: int = 40_000  # one TLB maintenance operation, after those before it
    sync_ps: int = 500_000  # a sync, after the last of them
    status_read_ps: int = 100_000  # a poll of a status register, as the CPU that polls sees it
    walk_slots: int = 8  # page table walks at one time (DDI0517)
    outstanding: int = 128  # transactions of a TBU under way: reads, and as many writes (DDI0517)
    clock_mhz: int = 500

    def row(self) -> list[int]:
        """The values as `Arrays.timing` has them (T_* of `arrays`)."""
        return [
            self.micro_hit_ps,
            self.macro_hit_ps,
            self.descriptor_read_ps,
            self.memory_latency_ps,
            self.memory_ps_per_kib,
        ]


@dataclass(frozen=True, slots=True)
class SmmuSpec:
    """Shape of an MMU-500. The counts given here show in IDR0 and IDR1, whatever `idr0` and `idr1` say."""

    context_banks: int = 16
    stream_match_groups: int = 48
    #: One µTLB for each TBU, in entries; the PL's ports are behind TBU 0, 3, 4 and 5.
    micro_tlb_entries: tuple[int, ...] = (128, 32, 32, 128, 128, 128)
    macro_tlb_entries: int = 512
    macro_tlb_ways: int = 4
    #: Walk cache and IPA cache share one RAM; 0 entries: there is none.
    walk_cache_entries: int = 1024
    walk_cache_ways: int = 4
    stream_id_bits: int = 15  # IDR0.NUMSIDB; also what an SMR stores of ID and MASK
    #: IDR0.ATOSNS = 0: software may ask for translations (GATS, CB_ATS1).
    address_translation: bool = False
    spi: int = 155
    idr0: int = 0xFC01_3E30
    idr1: int = 0x3000_0F10
    idr2: int = 0x0000_5555
    idr7: int = 0x0000_0021
    pmcfgr: int = 0x0501_1F17
    pmceid0: int = 0x0003_0303
    timing: SmmuTiming = field(default_factory=SmmuTiming)

    def __post_init__(self) -> None:
        sets, rest = divmod(self.macro_tlb_entries, max(self.macro_tlb_ways, 1))
        if self.macro_tlb_ways < 1 or rest or sets < 1 or sets & (sets - 1):
            raise ValueError(
                f"macro TLB of {self.macro_tlb_entries} entries in {self.macro_tlb_ways} ways: "
                "the number of sets must be a power of two"
            )
        if not 1 <= len(self.micro_tlb_entries) <= MAX_TBUS or any(
            not 1 <= entries <= MAX_MICRO_TLB for entries in self.micro_tlb_entries
        ):
            raise ValueError(
                f"micro TLBs {self.micro_tlb_entries}: 1 to {MAX_TBUS} TBUs, "
                f"each with 1 to {MAX_MICRO_TLB} entries"
            )
        if not 1 <= self.context_banks <= self.global_pages or not 1 <= self.stream_match_groups <= 128:
            raise ValueError(
                f"{self.context_banks} context banks (IDR1.NUMPAGENDXB leaves room for {self.global_pages}) "
                f"and {self.stream_match_groups} stream match groups (at most 128)"
            )
        if not 1 <= self.stream_id_bits <= MAX_STREAM_BITS or self.tbus - 1 << 10 >> self.stream_id_bits:
            raise ValueError(
                f"stream IDs of {self.stream_id_bits} bits: at most {MAX_STREAM_BITS}, "
                f"and enough for {self.tbus} TBUs of 10 bits each"
            )

    @property
    def tbus(self) -> int:
        """Number of translation buffer units."""
        return len(self.micro_tlb_entries)

    @property
    def page(self) -> int:
        """Bytes between two pages of the register space: IDR1.PAGESIZE."""
        return 0x1_0000 if self.idr1 >> 31 else 0x1000

    @property
    def global_pages(self) -> int:
        """Pages before the context banks, and as many for them: 2^(IDR1.NUMPAGENDXB + 1)."""
        return 2 << ((self.idr1 >> 28) & 7)

    @property
    def bank_offset(self) -> int:
        """Offset of context bank 0's page."""
        return self.global_pages * self.page

    @property
    def size(self) -> int:
        """Bytes of the register space."""
        return 2 * self.bank_offset

    @property
    def id_register_0(self) -> int:
        """IDR0 with NUMSMRG, NUMSIDB and ATOSNS."""
        rest = self.idr0 & ~0xFF & ~(0xF << 9) & ~(1 << 26)
        return (
            rest | (not self.address_translation) << 26 | self.stream_id_bits << 9 | self.stream_match_groups
        )

    @property
    def id_register_1(self) -> int:
        """IDR1 with NUMCB."""
        return (self.idr1 & ~0xFF) | self.context_banks

    @property
    def pm_configuration(self) -> int:
        """PMCFGR with the numbers of counters and of counter groups: a group of four for each TBU."""
        return (self.pmcfgr & ~0xFF00_00FF) | (self.tbus - 1) << 24 | (4 * self.tbus - 1)

    @property
    def granules(self) -> frozenset[int]:
        """log2 of the granules that IDR2.PTFSv8 offers."""
        return frozenset(shift for bit, shift in ((12, 12), (13, 14), (14, 16)) if self.idr2 >> bit & 1)

    @property
    def output_bits(self) -> int:
        """Bits of an output address: IDR2.OAS."""
        return IPS_BITS[self.idr2 >> 4 & 7]

    @property
    def upstream_bits(self) -> int:
        """Bits of an input address as it arrives: IDR2.UBS."""
        return UPSTREAM_BITS[self.idr2 >> 8 & 7]

    @property
    def stages(self) -> int:
        """STAGE_1 | STAGE_2, as IDR0.S1TS and S2TS offer them."""
        return (self.idr0 >> 30 & 1) * STAGE_1 | (self.idr0 >> 29 & 1) * STAGE_2

    @property
    def nested(self) -> bool:
        """IDR0.NTS: stage 1 nested in stage 2."""
        return bool(self.idr0 >> 28 & 1)

    @property
    def wide_vmids(self) -> bool:
        """IDR2.VMID16S: VMIDs may have 16 bits."""
        return bool(self.idr2 >> 15 & 1)

    @property
    def extended_ids(self) -> bool:
        """IDR0.EXIDS: stream match registers may compare 16 bits."""
        return bool(self.idr0 >> 8 & 1)
