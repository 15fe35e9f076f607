"""A bare chip to measure: engines driven by registers, page tables of any granule and depth in its DRAM.

Registers and bits as in Arm DDI0517 (SMMU), AMD UG1085 (ZDMA) and PG034 (CDMA). The chip is the platform's,
but for what a measurement varies: what a chip has no option for (16 KiB granules on ZynqMP, a display that
reads all the time) is a variant of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from unimem.addresses import fmt
from unimem_node import Mpsoc
from unimem_node.mmu.geometry import Geometry
from unimem_node.mmu.tables import PageTable
from unimem_node.mpsoc.platform import Platform, load

_CR0, _SMR, _S2CR, _CBAR, _CBA2R = 0x000, 0x800, 0xC00, 0x1000, 0x1800
_SCTLR, _TCR2, _TTBR0, _TCR, _TLBIALL, _TLBSYNC, _TLBSTATUS = (
    0x000, 0x010, 0x020, 0x030, 0x618, 0x7F0, 0x7F4,
)  # fmt: skip
_TG0: Final = {12: 0, 14: 2, 16: 1}  # TCR.TG0
_IDR2_GRANULE: Final = {12: 1 << 12, 14: 1 << 13, 16: 1 << 14}

#: Where virtual addresses begin, below 2^36 so that tables of any depth reach them; pages from here down in
#: DRAM; data above. Each is aligned to the largest block, 512 MiB.
VA: Final = 0x2_0000_0000
TABLES: Final = 0x1000_0000
DATA: Final = 0x2000_0000
OCM: Final = 0xFFFC_0000
OCM_BYTES: Final = 0x4_0000


class MeasurementError(RuntimeError):
    """A transfer of a measurement was refused, or an engine is unknown: the figure would mean nothing."""


def variant(
    platform: str | Platform,
    *,
    granule_shift: int = 12,
    walk_cache: bool = True,
    busy_mb_per_s: Mapping[str, int] | None = None,
) -> Platform:
    """The platform with that granule offered, with or without a walk cache, and other traffic on DRAM ports.

    `busy_mb_per_s`: megabytes a second that masters outside the model read, by DRAM port. Raises KeyError for
    a port that the platform does not have.
    """
    chip = load(platform) if isinstance(platform, str) else platform
    block = replace(chip.smmu.block, idr2=chip.smmu.block.idr2 | _IDR2_GRANULE[granule_shift])
    if not walk_cache:
        block = replace(block, walk_cache_entries=0)
    update: dict[str, Any] = {"smmu": chip.smmu.model_copy(update={"block": block})}
    if busy_mb_per_s:
        if chip.dram_ports is None:
            raise KeyError(f"platform {chip.name} says nothing of its DRAM ports")
        ports = dict(chip.dram_ports.ports)
        for name, busy in busy_mb_per_s.items():
            ports[name] = ports[name].model_copy(update={"busy_mb_per_s": busy})
        update["dram_ports"] = chip.dram_ports.model_copy(update={"ports": ports})
    return chip.model_copy(update=update)


@dataclass(frozen=True, slots=True)
class Engine:
    """A DMA engine: a ZDMA channel (`zdma`) or an AXI CDMA in the PL."""

    name: str
    base: int
    stream_id: int | None
    zdma: bool


class Chip:
    """A chip out of reset with one AXI CDMA for each of `cdma_ports`, and what drives its engines.

    `options` are those of every CDMA (`outstanding`, `clock_mhz`, …).
    """

    def __init__(
        self,
        platform: str | Platform = "zynqmp",
        cdma_ports: Sequence[str] = (),
        *,
        memory_bytes: int = 4 << 30,
        **options: int,
    ) -> None:
        masters = [
            {"type": "axi_cdma", "port": port, "base": 0xA100_0000 + n * 0x1_0000, "axi_id": n, **options}
            for n, port in enumerate(cdma_ports)
        ]
        self.soc = Mpsoc(platform, memory_bytes=memory_bytes, pl_masters=masters)
        self._smmu = self.soc.platform.smmu.base
        self._bank = self._smmu + self.soc.platform.smmu.block.bank_offset
        self._taken = TABLES

    @property
    def now_ps(self) -> int:
        """Simulated time."""
        return self.soc.scheduler.now_ps

    def cdma(self, n: int) -> Engine:
        """The CDMA of the n-th of `cdma_ports`."""
        spec = self.soc.pl[f"cdma{n}"].spec
        return Engine(spec.name, spec.base, spec.stream_id, zdma=False)

    def zdma(self, name: str) -> Engine:
        """A channel of the PS (``"fpd0"``)."""
        if name not in self.soc.zdma:
            raise MeasurementError(f"no engine {name!r}; the PS has {', '.join(self.soc.zdma) or 'none'}")
        spec = self.soc.zdma[name].spec
        return Engine(spec.name, spec.base, spec.stream_id, zdma=True)

    # ---- engines

    def start(self, engine: Engine, source: int, destination: int | None, size: int) -> None:
        """Let an idle engine copy; `destination` None: read only, which a CDMA cannot."""
        write32, write64 = self.soc.bus.write32, self.soc.bus.write64
        base = engine.base
        if engine.zdma:
            write32(base + 0x110, 0x80 | (2 << 4 if destination is None else 0))  # CTRL0: OVR_FETCH, MODE
            write64(base + 0x128, source)
            write64(base + 0x138, destination or 0)
            write32(base + 0x130, size)
            write32(base + 0x200, 1)  # CTRL2.EN
            return
        if destination is None:
            raise MeasurementError("an AXI CDMA copies: it does not only read")
        write64(base + 0x18, source)
        write64(base + 0x20, destination)
        write32(base + 0x28, size)  # BTT

    def done(self, engine: Engine) -> bool:
        """Tell whether an engine is idle again; raises `MeasurementError` when its transfer was refused."""
        if engine.zdma:
            status = self.soc.bus.read32(engine.base + 0x11C) & 3
            failed, idle = status == 3, status == 0
        else:
            status = self.soc.bus.read32(engine.base + 0x04)
            failed, idle = bool(status & 0x770), bool(status & 2)
        if failed:
            raise MeasurementError(f"{engine.name}: the transfer was refused")
        return idle

    def time(self, engine: Engine, source: int, destination: int | None, size: int) -> int:
        """Picoseconds from the write that starts a transfer to its end; nothing else may be under way."""
        before = self.now_ps
        self.start(engine, source, destination, size)
        self.soc.run()
        if not self.done(engine):
            raise MeasurementError(f"{engine.name}: the transfer of {size} bytes did not end")
        return self.now_ps - before

    # ---- the SMMU

    def translate(self, streams: Sequence[int | None], geometry: Geometry) -> PageTable:
        """Send these streams through context bank 0 and an empty page table of that geometry."""
        write32, write64 = self.soc.bus.write32, self.soc.bus.write64
        table = PageTable(self.soc.bus, lambda: self._page(geometry.page), lambda _: None, geometry=geometry)
        for n, stream in enumerate(streams):
            if stream is None:
                raise MeasurementError("a master on this port does not pass the SMMU")
            write32(self._smmu + _S2CR + 4 * n, 0)  # translate with bank 0
            write32(self._smmu + _SMR + 4 * n, 1 << 31 | stream)
        write32(self._smmu + _CBAR, 1 << 16)  # stage 1, stage 2 bypassed
        write32(self._smmu + _CBA2R, 1)  # AArch64 tables
        write32(self._bank + _TCR2, 5 | 7 << 15)  # 48 bits out, the sign of the upstream bus
        write32(self._bank + _TCR, geometry.txsz | _TG0[geometry.granule_shift] << 14 | 1 << 23)
        write64(self._bank + _TTBR0, 1 << 48 | table.root)
        write32(self._bank + _SCTLR, 0x61)  # M, CFRE, CFIE
        write32(self._smmu + _CR0, 1 << 10 | 1 << 21)  # clients translated, unknown streams fault
        return table

    def _page(self, size: int) -> int:
        self._taken = (self._taken + size - 1) // size * size
        page, self._taken = self._taken, self._taken + size
        if self._taken > DATA:
            raise MeasurementError(f"page tables reach into the data at {fmt(DATA)}")
        return page

    def cold(self) -> None:
        """Empty all TLBs and the walk cache, and wait until that is done."""
        write32, read32 = self.soc.bus.write32, self.soc.bus.read32
        write32(self._bank + _TLBIALL, 0)
        write32(self._bank + _TLBSYNC, 0)
        while read32(self._bank + _TLBSTATUS) & 1:
            pass
        self.soc.run()

    def close(self) -> None:
        """Give the memory back."""
        self.soc.close()
