"""Parts of a platform that the chip itself has: memory, the SMMU, DMA controllers, ports from the PL.

Each is a table of the platform's file, checked when it is read (`platform.py` checks that they fit together).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from unimem_node.dma import DataPath, ZdmaSpec
from unimem_node.memory import DramPortSpec, DramSpec, MemoryBank
from unimem_node.memory.physical import MAX_BANKS
from unimem_node.smmu import SmmuSpec

PAGE: Final = 4096
#: A stream ID is TBU[14:10] | master ID[9:0]; the low bits of a PL master's ID are its AXI ID.
TBU_SHIFT: Final = 10

Address = Annotated[int, Field(ge=0, lt=1 << 48)]
Positive = Annotated[int, Field(gt=0)]
Spi = Annotated[int, Field(ge=0, lt=988)]  # GICv2: INTID 32 to 1019
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,62}$")]


class PlatformError(ValueError):
    """A platform, or what is asked of one, does not fit together: says what, where, and the way out."""


class Part(BaseModel):
    """A table of a platform's file: unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MemoryRange(Part):
    """A range of physical addresses, in whole pages."""

    base: Address
    size: Positive

    @model_validator(mode="after")
    def _whole_pages(self) -> MemoryRange:
        if self.base % PAGE or self.size % PAGE:
            raise ValueError(f"base and size must be multiples of the page size, {PAGE}")
        return self

    @property
    def end(self) -> int:
        """First address behind it."""
        return self.base + self.size


class MemoryMap(Part):
    """Where DRAM may be, in the order in which it is filled; and the on-chip memory, if there is any."""

    dram: tuple[MemoryRange, ...] = Field(min_length=1, max_length=MAX_BANKS - 1)
    on_chip: MemoryRange | None = None

    def banks(self, memory_bytes: int) -> list[MemoryBank]:
        """The banks of a board with `memory_bytes` of DRAM; raises `PlatformError` if none can be."""
        most = sum(part.size for part in self.dram)
        if memory_bytes <= 0 or memory_bytes % PAGE or memory_bytes > most:
            near = min(max(-(-memory_bytes // PAGE) * PAGE, PAGE), most)
            raise PlatformError(
                f"memory_bytes = {memory_bytes}: must be a multiple of the page size, {PAGE}, "
                f"from {PAGE} to {most} ({most >> 30} GiB); the nearest is {near}"
            )
        banks = []
        left = memory_bytes
        for name, part in zip(("dram", "dram_high", "dram_top"), self.dram, strict=False):
            if left:
                banks.append(MemoryBank(name, part.base, min(left, part.size)))
                left -= banks[-1].size
        if self.on_chip is not None:
            banks.append(MemoryBank("ocm", self.on_chip.base, self.on_chip.size))
        return banks


class DramPortPart(Part):
    """A port of the DRAM controller: the TBUs that drain into it (see `DramPortSpec`)."""

    tbus: tuple[int, ...] = ()
    off_smmu: bool = False
    lanes: int = Field(1, ge=1, le=16)
    busy_mb_per_s: int = Field(0, ge=0)


class DramPart(Part):
    """The DRAM controller's ports. What the controller reaches is `smmu.block.timing.memory_ps_per_kib`.

    `peak_ps_per_kib`: what its data bus could do, which measurements are compared with. `port_ps_per_kib`:
    a port, each way. Masters that no port names have the controller's speed for their limit.
    """

    peak_ps_per_kib: Positive
    port_ps_per_kib: Positive
    ports: dict[str, DramPortPart] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_port_each(self) -> DramPart:
        owners: dict[int | None, str] = {}
        for name, port in self.ports.items():
            for user in (*port.tbus, *((None,) if port.off_smmu else ())):
                other = owners.setdefault(user, name)
                if other != name:
                    who = "masters off the SMMU" if user is None else f"TBU {user}"
                    raise ValueError(f"ports {other} and {name} both serve {who}")
        return self

    def spec(self, ps_per_kib: int) -> DramSpec:
        """What the model is built from, of a controller of that speed."""
        ports = tuple(
            DramPortSpec(name, port.tbus, port.off_smmu, port.lanes, port.busy_mb_per_s)
            for name, port in self.ports.items()
        )
        return DramSpec(ps_per_kib, self.port_ps_per_kib, ports)


class CachePart(Part):
    """The CPU's write-back cache, modelled: what the CPU stores is in memory when its line goes back."""

    lines: Positive
    line_bytes: Literal[16, 32, 64, 128] = 64


class CpuPart(Part):
    """The CPUs' coherence: whose accesses ask their cache, and that cache, if it is modelled.

    `coherent_tbus` drain into the interconnect that snoops the CPUs. `bypass_cacheable`: what the masters
    drive as AxCACHE, and so whether an untranslated access is coherent there.
    """

    coherent_tbus: tuple[int, ...] = ()
    bypass_cacheable: bool = False
    write_back_cache: CachePart | None = None


class SmmuPart(Part):
    """Where the SMMU's registers are, and those of the block that collects its interrupts; and its shape."""

    base: Address
    wrapper: Address | None = None  # ZynqMP's and Versal's SMMU_REG; other chips have none
    block: SmmuSpec


class DmaPart(Part):
    """A DMA controller of the PS (ZDMA): channels of one kind, equally spaced."""

    name: Name
    base: Address
    stride: Positive
    channels: Positive
    spi: Spi
    spi_step: int = Field(1, ge=0)  # 0: all channels share the interrupt
    stream: int = Field(ge=0)
    stream_step: int = Field(1, ge=0)
    tbu: int
    width_bits: Literal[32, 64, 128]
    clock_mhz: Positive
    setup_cycles: int = Field(ge=0)

    @model_validator(mode="after")
    def _streams_are_of_its_tbu(self) -> DmaPart:
        for stream in (self.stream, self.stream + (self.channels - 1) * self.stream_step):
            if stream >> TBU_SHIFT != self.tbu:
                raise ValueError(
                    f"stream {stream:#06x} is one of TBU {stream >> TBU_SHIFT}, not of tbu = {self.tbu}"
                )
        return self

    def specs(self) -> Iterator[ZdmaSpec]:
        """Each channel."""
        path = DataPath(self.width_bits // 8, self.clock_mhz, self.setup_cycles)
        for n in range(self.channels):
            yield ZdmaSpec(
                f"{self.name}{n}",
                self.base + n * self.stride,
                self.stride,
                self.spi + n * self.spi_step,
                self.stream + n * self.stream_step,
                path,
            )


class PortPart(Part):
    """An AXI port from the PL: its first stream ID, or neither TBU nor stream if it bypasses the SMMU.

    `axi_ids` is how many AXI IDs of a master reach the SMMU, each as a stream of its own.
    """

    tbu: int | None = None
    first_stream: int | None = None
    axi_ids: int = Field(64, ge=1, le=1 << TBU_SHIFT)

    @model_validator(mode="after")
    def _whole(self) -> PortPart:
        if self.axi_ids & (self.axi_ids - 1):
            raise ValueError(f"axi_ids = {self.axi_ids} must be a power of two")
        if (self.tbu is None) != (self.first_stream is None):
            raise ValueError("a port has both tbu and first_stream, or neither (it does not pass the SMMU)")
        if self.first_stream is not None and (
            self.first_stream % self.axi_ids or self.first_stream >> TBU_SHIFT != self.tbu
        ):
            raise ValueError(
                f"first_stream = {self.first_stream:#06x} must be a multiple of {self.axi_ids:#x} "
                f"in TBU {self.tbu}"
            )
        return self

    @property
    def streams(self) -> range:
        """Stream IDs of its masters; empty when it does not pass the SMMU."""
        if self.first_stream is None:
            return range(0)
        return range(self.first_stream, self.first_stream + self.axi_ids)
