"""The TLBs as a thing: their arrays, their counters, and the maintenance operations of SMMUv2.

Look-up and refill are in `_fast.py`, removal in `_fast_tlb.py`. An entry is removed when the address given
lies anywhere inside its page or block: by coverage, not by equal start. There is no walk cache yet, so the
last-level forms (TLBIVAL, TLBIVAAL) remove the same entries as TLBIVA and TLBIVAA.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from unimem_node.mmu.regime import signed
from unimem_node.smmu._fast_tlb import invalidate
from unimem_node.smmu.arrays import (
    C_BYPASSES,
    C_COLS,
    C_FAULTS,
    C_MACRO_HITS,
    C_READS,
    C_UTLB_HITS,
    C_WALKS,
    GLOBAL_ASID,
    M_FIRST,
    M_LINKS,
    M_POINTERS,
    M_SET_MASK,
    M_TBUS,
    M_WAYS,
    STATE_TBU,
    T_PAGE,
    TLB_COLS,
    U_COLS,
    U_ENTRIES,
    U_FIRST,
)
from unimem_node.smmu.spec import SmmuSpec

Int64s = npt.NDArray[np.int64]

VMID_SHIFT: Final = 32
BANK_SHIFT: Final = 16
_VMID: Final = 0xFFFF << VMID_SHIFT
_ASID: Final = GLOBAL_ASID


def context_of(vmid: int, bank: int, asid: int) -> int:
    """Tag of a bank's entries. Banks share none, even when VMID and ASID agree: the bank is part of it."""
    return vmid << VMID_SHIFT | bank << BANK_SHIFT | asid


class Tlb:
    """All TLBs of one SMMU: a µTLB in each TBU and the TCU's macro TLB."""

    def __init__(self, spec: SmmuSpec) -> None:
        micro = sum(spec.micro_tlb_entries)
        sets = spec.macro_tlb_entries // spec.macro_tlb_ways
        rows = 1 + micro + spec.macro_tlb_entries
        pointers = STATE_TBU + spec.tbus * U_COLS
        self.rows: Int64s = np.zeros((rows, TLB_COLS), np.int64)
        self.state: Int64s = np.zeros(pointers + sets + rows, np.int64)
        self.counts: Int64s = np.zeros((spec.tbus, C_COLS), np.int64)
        self._scratch: Int64s = np.zeros(
            (max(*spec.micro_tlb_entries, spec.macro_tlb_ways), TLB_COLS), np.int64
        )
        state = self.state
        state[M_FIRST] = 1 + micro
        state[M_WAYS] = spec.macro_tlb_ways
        state[M_SET_MASK] = sets - 1
        state[M_POINTERS] = pointers
        state[M_LINKS] = pointers + sets
        state[M_TBUS] = spec.tbus
        first = 1
        for tbu, entries in enumerate(spec.micro_tlb_entries):
            state[STATE_TBU + tbu * U_COLS + U_FIRST] = first
            state[STATE_TBU + tbu * U_COLS + U_ENTRIES] = entries
            first += entries

    def invalidate_all(self) -> int:
        """Remove everything; returns the number of entries, as all of these do."""
        return self._invalidate(0, 0)

    def invalidate_vmid(self, vmid: int) -> int:
        """Remove what belongs to a VMID: TLBIVMID, and TLBIALL of a bank."""
        return self._invalidate(_VMID, vmid << VMID_SHIFT)

    def invalidate_asid(self, vmid: int, asid: int) -> int:
        """Remove what belongs to an address space; global entries stay: TLBIASID."""
        return self._invalidate(_VMID | _ASID, vmid << VMID_SHIFT | asid, globals_too=False)

    def invalidate_va(self, vmid: int, asid: int | None, va: int) -> int:
        """Remove what covers `va` in an address space (None: in all), and global entries that do."""
        if asid is None:
            return self._invalidate(_VMID, vmid << VMID_SHIFT, va)
        return self._invalidate(_VMID | _ASID, vmid << VMID_SHIFT | asid, va)

    def _invalidate(self, mask: int, value: int, va: int | None = None, globals_too: bool = True) -> int:
        by_va = va is not None
        return int(
            invalidate(self.rows, self.state, self._scratch, mask, value, by_va, signed(va or 0), globals_too)
        )

    def occupancy(self, tbu: int | None = None) -> int:
        """Number of valid entries of a µTLB, or (None) of the macro TLB."""
        if tbu is None:
            rows = self.rows[self.state[M_FIRST] :]
        else:
            first = self.state[STATE_TBU + tbu * U_COLS + U_FIRST]
            rows = self.rows[first : first + self.state[STATE_TBU + tbu * U_COLS + U_ENTRIES]]
        return int(np.count_nonzero(rows[:, T_PAGE]))

    def counters(self) -> dict[str, int]:
        """Totals over the TBUs. `misses` are µTLB misses; each ends in a macro hit or a walk."""
        total = self.counts.sum(axis=0)
        hits, macro, walks = int(total[C_UTLB_HITS]), int(total[C_MACRO_HITS]), int(total[C_WALKS])
        bypasses = int(total[C_BYPASSES])
        return {
            "translations": bypasses + hits + macro + walks,
            "bypasses": bypasses,
            "utlb_hits": hits,
            "macro_hits": macro,
            "misses": macro + walks,
            "walks": walks,
            **{f"reads_l{level}": int(total[C_READS + level]) for level in range(4)},
            "faults": int(total[C_FAULTS]),
        }
