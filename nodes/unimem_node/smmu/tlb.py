"""The TLBs as a thing: their arrays, their counters, and the maintenance operations of SMMUv2.

Look-up and refill are in `_fast.py`, removal in `_fast_tlb.py`. An entry is removed when the address given
lies anywhere inside its page or block: by coverage, not by equal start. The last-level forms leave the walk
cache alone: after a change of a *table* entry they are not enough. Operations on stage 2 by IPA leave the
combined entries of nested translations alone: those hold no IPA for the hardware to compare, and software
removes them by VMID or VA after it, as the architecture demands.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from unimem_node.mmu._fast_cache import (
    H_FIRST,
    H_POINTERS,
    H_SET_MASK,
    H_USES,
    H_WAYS,
    USE_IPA,
    USE_STAGE_1,
    USE_STAGE_2,
)
from unimem_node.mmu.regime import signed
from unimem_node.smmu._fast_tlb import (
    EVERYTHING,
    IPAS,
    OF_STAGE_1,
    OF_STAGE_2,
    TABLES_1,
    TABLES_2,
    invalidate,
)
from unimem_node.smmu.arrays import (
    C_BYPASSES,
    C_COLS,
    C_FAULTS,
    C_IPA_HITS,
    C_MACRO_HITS,
    C_READS,
    C_READS_2,
    C_UTLB_HITS,
    C_WALK_HITS,
    C_WALKS,
    CONTEXT_STAGE_2,
    GLOBAL_ASID,
    LANES,
    M_FIRST,
    M_IPAS,
    M_LINKS,
    M_POINTERS,
    M_ROWS,
    M_SET_MASK,
    M_TBUS,
    M_WALKS,
    M_WAYS,
    STATE_TBU,
    T_PAGE,
    TLB_COLS,
    U_COLS,
    U_ENTRIES,
    U_FIRST,
    WORLD_SHIFT,
)
from unimem_node.smmu.spec import SmmuSpec

Int64s = npt.NDArray[np.int64]

VMID_SHIFT: Final = 32
BANK_SHIFT: Final = 16
_VMID: Final = 0xFFFF << VMID_SHIFT
_ASID: Final = GLOBAL_ASID
_WORLD: Final = 3 << WORLD_SHIFT


class World(IntEnum):
    """Whose translations: those of a hypervisor and of a monitor have no VMID."""

    NON_HYP = 0
    HYP = 1
    MONITOR = 2


def context_of(vmid: int, bank: int, asid: int, world: int = World.NON_HYP, stage2: bool = False) -> int:
    """Tag of a bank's entries. Banks share none, even when VMID and ASID agree: the bank is part of it.

    Stage 2 knows no ASID: its entries are global.
    """
    tag = vmid << VMID_SHIFT | bank << BANK_SHIFT | world << WORLD_SHIFT
    return tag | CONTEXT_STAGE_2 | GLOBAL_ASID if stage2 else tag | asid


class Tlb:
    """All TLBs of one SMMU: a µTLB in each TBU, the TCU's macro TLB, and its walk and IPA cache."""

    def __init__(self, spec: SmmuSpec) -> None:
        micro = sum(spec.micro_tlb_entries)
        sets = spec.macro_tlb_entries // spec.macro_tlb_ways
        walk_sets = spec.walk_cache_entries // spec.walk_cache_ways
        rows = 1 + micro + spec.macro_tlb_entries
        walk_rows = walk_sets * spec.walk_cache_ways
        pointers = STATE_TBU + spec.tbus * U_COLS
        #: See `arrays`: entries, walk and IPA cache, and the IPAs that belong to entries.
        self.rows: Int64s = np.zeros((rows + walk_rows + rows, TLB_COLS), np.int64)
        self.state: Int64s = np.zeros(pointers + sets + rows + walk_sets, np.int64)
        self.counts: Int64s = np.zeros((LANES, C_COLS), np.int64)
        largest = max(*spec.micro_tlb_entries, spec.macro_tlb_ways)
        self._scratch: Int64s = np.zeros((largest, TLB_COLS + 1), np.int64)
        state = self.state
        state[M_FIRST] = 1 + micro
        state[M_WAYS] = spec.macro_tlb_ways
        state[M_SET_MASK] = sets - 1
        state[M_POINTERS] = pointers
        state[M_LINKS] = pointers + sets
        state[M_TBUS] = spec.tbus
        state[M_IPAS] = rows + walk_rows
        state[M_ROWS] = rows
        state[M_WALKS + H_FIRST] = rows
        state[M_WALKS + H_WAYS] = spec.walk_cache_ways if walk_sets else 0
        state[M_WALKS + H_SET_MASK] = max(walk_sets, 1) - 1
        state[M_WALKS + H_POINTERS] = pointers + sets + rows
        self._walk_sets = walk_sets
        self.set_walk_caches(stage1=True, stage2=True, ipa=True)
        first = 1
        for tbu, entries in enumerate(spec.micro_tlb_entries):
            state[STATE_TBU + tbu * U_COLS + U_FIRST] = first
            state[STATE_TBU + tbu * U_COLS + U_ENTRIES] = entries
            first += entries

    def set_walk_caches(self, *, stage1: bool, stage2: bool, ipa: bool) -> None:
        """Enable the uses of the walk and IPA cache: ACR.S1WC2EN, S2WC2EN, IPA2PA_CEN.

        What a disabled use holds stays, and is found again when it is enabled unless it was invalidated.
        """
        uses = USE_STAGE_1 * stage1 | USE_STAGE_2 * stage2 | USE_IPA * ipa
        self.state[M_WALKS + H_USES] = uses if self._walk_sets else 0

    def invalidate_all(self) -> int:
        """Remove everything; returns the number of entries, as all of these do."""
        return self._invalidate(EVERYTHING, 0, 0)

    def invalidate_world(self, world: int) -> int:
        """Remove what is the hypervisor's, the monitor's, or neither's: TLBIALLH, STLBIALLM, TLBIALLNSNH."""
        return self._invalidate(EVERYTHING, _WORLD, world << WORLD_SHIFT)

    def invalidate_vmid(self, vmid: int, *, stage1_only: bool = False) -> int:
        """Remove what belongs to a VMID: TLBIVMID, TLBIALL of a bank; `stage1_only`: TLBIVMIDS1."""
        reach = OF_STAGE_1 | TABLES_1 if stage1_only else EVERYTHING
        return self._invalidate(reach, _VMID | _WORLD, vmid << VMID_SHIFT)

    def invalidate_asid(self, vmid: int, asid: int, world: int = World.NON_HYP) -> int:
        """Remove what belongs to an address space; global entries stay: TLBIASID."""
        mask, value = _owner(vmid, world)
        return self._invalidate(OF_STAGE_1 | TABLES_1, mask | _ASID, value | asid, globals_too=False)

    def invalidate_va(
        self, vmid: int, asid: int | None, va: int, *, leaf: bool = False, world: int = World.NON_HYP
    ) -> int:
        """Remove what covers `va` in an address space (None: in all), and global entries that do.

        TLBIVA, TLBIVAA; `leaf`: TLBIVAL, TLBIVAAL, which leave the walk cache.
        """
        mask, value = _owner(vmid, world)
        if asid is not None:
            mask, value = mask | _ASID, value | asid
        return self._invalidate(OF_STAGE_1 if leaf else OF_STAGE_1 | TABLES_1, mask, value, va)

    def invalidate_ipa(self, vmid: int, ipa: int, *, leaf: bool = False) -> int:
        """Remove what stage 2 says of `ipa`: TLBIIPAS2; `leaf`: TLBIIPAS2L, which leaves the walk cache."""
        reach = OF_STAGE_2 | IPAS if leaf else OF_STAGE_2 | IPAS | TABLES_2
        return self._invalidate(reach, _VMID | _WORLD, vmid << VMID_SHIFT, ipa)

    def _invalidate(
        self, reach: int, mask: int, value: int, address: int | None = None, globals_too: bool = True
    ) -> int:
        return int(
            invalidate(
                self.rows,
                self.state,
                self._scratch,
                reach,
                mask,
                value,
                address is not None,
                signed(address or 0),
                globals_too,
            )
        )

    def occupancy(self, tbu: int | None = None) -> int:
        """Number of valid entries of a µTLB, or (None) of the macro TLB."""
        if tbu is None:
            rows = self.rows[self.state[M_FIRST] : self.state[M_ROWS]]
        else:
            first = self.state[STATE_TBU + tbu * U_COLS + U_FIRST]
            rows = self.rows[first : first + self.state[STATE_TBU + tbu * U_COLS + U_ENTRIES]]
        return int(np.count_nonzero(rows[:, T_PAGE]))

    def walk_cache_occupancy(self) -> int:
        """Number of valid rows of the walk and IPA cache."""
        return int(np.count_nonzero(self.rows[self.state[M_ROWS] : self.state[M_IPAS], T_PAGE]))

    def counters(self) -> dict[str, int]:
        """Totals over all lanes. `misses` are µTLB misses; each ends in a macro hit or a walk."""
        total = self.counts.sum(axis=0).tolist()
        hits, macro, walks, bypasses = (
            total[column] + total[column + 1] for column in (C_UTLB_HITS, C_MACRO_HITS, C_WALKS, C_BYPASSES)
        )
        return {
            "translations": bypasses + hits + macro + walks,
            "bypasses": bypasses,
            "utlb_hits": hits,
            "macro_hits": macro,
            "misses": macro + walks,
            "walks": walks,
            **{f"reads_l{level}": total[C_READS + level] for level in range(4)},
            **{f"reads_s2_l{level}": total[C_READS_2 + level] for level in range(4)},
            "walk_cache_hits": total[C_WALK_HITS],
            "ipa_cache_hits": total[C_IPA_HITS],
            "faults": total[C_FAULTS],
        }


def _owner(vmid: int, world: int) -> tuple[int, int]:
    """(mask, value) of the contexts of a world; only outside hypervisor and monitor does the VMID count."""
    if world == World.NON_HYP:
        return _VMID | _WORLD, vmid << VMID_SHIFT
    return _WORLD, world << WORLD_SHIFT
