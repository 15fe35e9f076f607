"""TLB maintenance registers: which write removes what (SMMUv2, "TLB maintenance operations").

Operations of a context bank reach every bank with the same VMID, since that and the ASID are what a TLB
entry carries by the specification; a driver keeps address spaces apart by VMID or ASID. The last-level forms
(TLBIVAL, TLBIVAAL) may leave what a walk cache holds; there is none. The secure operation STLBIALL removes
all, the bus carrying no security state; those for hypervisor and monitor find nothing of theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from unimem_node.bus.registers import RegisterFile
from unimem_node.smmu.banks import asid_mask, vmid_of
from unimem_node.smmu.tlb import Tlb

_ASID_SHIFT: Final = 48
_PAGE_MASK: Final = (1 << 44) - 1  # VA[55:12] in bits 43:0


class Maintenance:
    """Runs TLB operations written to the registers; `operations` counts them."""

    def __init__(self, registers: RegisterFile, tlb: Tlb, changed: Callable[[], None]) -> None:
        self._registers = registers
        self._tlb = tlb
        self._changed = changed
        self.operations = 0
        self._global("STLBIALL", lambda value: tlb.invalidate_all())
        self._global("TLBIALLNSNH", lambda value: tlb.invalidate_all())
        self._global("TLBIVMID", lambda value: tlb.invalidate_vmid(value & 0xFF))
        self._global("TLBIVMIDS1", lambda value: tlb.invalidate_vmid(value & 0xFF))
        self._bank("CB_TLBIALL", lambda bank, value: tlb.invalidate_vmid(self._vmid(bank)))
        self._bank("CB_TLBIASID", self._by_asid)
        for name in ("CB_TLBIVA", "CB_TLBIVAL"):
            self._bank(name, self._by_va)
        for name in ("CB_TLBIVAA", "CB_TLBIVAAL"):
            self._bank(name, self._by_va_all_asids)

    def _global(self, name: str, operation: Callable[[int], int]) -> None:
        self._bank(name, lambda bank, value: operation(value))

    def _bank(self, name: str, operation: Callable[[int, int], int]) -> None:
        def written(index: int, old: int, value: int) -> None:
            self.operations += 1
            operation(index, value)
            self._changed()

        self._registers.on_write(name, written)

    def _vmid(self, bank: int) -> int:
        return vmid_of(self._registers, bank)

    def _by_asid(self, bank: int, value: int) -> int:
        return self._tlb.invalidate_asid(self._vmid(bank), value & asid_mask(self._registers, bank))

    def _by_va(self, bank: int, value: int) -> int:
        asid = value >> _ASID_SHIFT & asid_mask(self._registers, bank)
        return self._tlb.invalidate_va(self._vmid(bank), asid, (value & _PAGE_MASK) << 12)

    def _by_va_all_asids(self, bank: int, value: int) -> int:
        return self._tlb.invalidate_va(self._vmid(bank), None, (value & _PAGE_MASK) << 12)
