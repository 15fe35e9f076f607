"""A platform: which chip is simulated, as data (``platforms/*.toml``; ZynqMP: UG1085, chapters 10 and 16).

A platform says where memory, the SMMU, the DMA engines and the PL's ports are and how fast they are. It is
checked when it is loaded; what does not fit together is refused with the place and the way out. Adding a
platform takes a file and no code.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from unimem.addresses import fmt
from unimem_node.dma import CdmaSpec, DataPath, ZdmaSpec
from unimem_node.fabric import RdmaSpec
from unimem_node.memory import MemoryBank
from unimem_node.smmu import SmmuSpec

PAGE: Final = 4096
#: A stream ID is TBU[14:10] | master ID[9:0]; the low six bits of a PL master's ID are its AXI ID.
TBU_SHIFT: Final = 10
AXI_IDS: Final = 64

Address = Annotated[int, Field(ge=0, lt=1 << 48)]
Positive = Annotated[int, Field(gt=0)]


class PlatformError(ValueError):
    """A platform, or what is asked of one, does not fit together: says what, where, and the way out."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MemoryRange(_Part):
    """A range of physical addresses."""

    base: Address
    size: Positive

    @property
    def end(self) -> int:
        """First address behind it."""
        return self.base + self.size


class MemoryMap(_Part):
    """Where DRAM may be: the low range is filled first; and the on-chip memory."""

    low: MemoryRange
    high: MemoryRange
    on_chip: MemoryRange

    def banks(self, memory_bytes: int) -> list[MemoryBank]:
        """The banks of a board with `memory_bytes` of DRAM; raises `PlatformError` if none can be."""
        most = self.low.size + self.high.size
        if memory_bytes <= 0 or memory_bytes % PAGE or memory_bytes > most:
            near = min(max(-(-memory_bytes // PAGE) * PAGE, PAGE), most)
            raise PlatformError(
                f"memory_bytes = {memory_bytes}: must be a multiple of the page size, {PAGE}, "
                f"from {PAGE} to {most} ({most >> 30} GiB); the nearest is {near}"
            )
        low = min(memory_bytes, self.low.size)
        banks = [MemoryBank("dram", self.low.base, low)]
        if memory_bytes > low:
            banks.append(MemoryBank("dram_high", self.high.base, memory_bytes - low))
        return [*banks, MemoryBank("ocm", self.on_chip.base, self.on_chip.size)]


class SmmuPart(_Part):
    """Where the SMMU's registers are, and those of the block that collects its interrupts; and its shape."""

    base: Address
    wrapper: Address
    block: SmmuSpec


class DmaPart(_Part):
    """A DMA controller of the PS: channels of one kind, equally spaced."""

    name: str
    base: Address
    stride: Positive
    channels: Positive
    spi: int
    stream: int
    tbu: int
    width_bits: Literal[32, 64, 128]
    clock_mhz: Positive
    setup_cycles: int = Field(ge=0)

    @model_validator(mode="after")
    def _stream_is_of_its_tbu(self) -> DmaPart:
        for stream in (self.stream, self.stream + self.channels - 1):
            if stream >> TBU_SHIFT != self.tbu:
                raise ValueError(
                    f"stream {stream:#06x} is one of TBU {stream >> TBU_SHIFT}, not of tbu = {self.tbu}"
                )
        return self

    def specs(self) -> Iterator[ZdmaSpec]:
        """Each channel."""
        path = DataPath(self.width_bits // 8, self.clock_mhz, self.setup_cycles)
        for n in range(self.channels):
            base = self.base + n * self.stride
            yield ZdmaSpec(f"{self.name}{n}", base, self.stride, self.spi + n, self.stream + n, path)


class PortPart(_Part):
    """An AXI port from the PL: its first stream ID, or neither TBU nor stream if it bypasses the SMMU."""

    tbu: int | None = None
    first_stream: int | None = None

    @model_validator(mode="after")
    def _whole(self) -> PortPart:
        if (self.tbu is None) != (self.first_stream is None):
            raise ValueError("a port has both tbu and first_stream, or neither (it does not pass the SMMU)")
        if self.first_stream is not None and (
            self.first_stream % AXI_IDS or self.first_stream >> TBU_SHIFT != self.tbu
        ):
            raise ValueError(
                f"first_stream = {self.first_stream:#06x} must be a multiple of {AXI_IDS:#x} "
                f"in TBU {self.tbu}"
            )
        return self


class _Master(_Part):
    """What every master in the PL has."""

    port: str
    base: Address
    size: Positive = 0x1_0000
    axi_id: int = Field(0, ge=0, lt=AXI_IDS)
    spi: int | None = None


class AxiCdmaPart(_Master):
    """An AXI CDMA: presents one AXI ID."""

    type: Literal["axi_cdma"]
    name: str | None = None
    width_bits: Literal[32, 64, 128] | None = None
    clock_mhz: Positive | None = None
    setup_cycles: int = Field(20, ge=0)
    length_bits: int = Field(26, ge=8, le=26)
    abort_response: Literal["SLVERR", "DECERR"] = "SLVERR"

    @property
    def ids(self) -> range:
        """AXI IDs it drives."""
        return range(self.axi_id, self.axi_id + 1)


class RdmaPart(_Master):
    """The RDMA network interface: presents one AXI ID for each PD slot."""

    type: Literal["rdma"]
    name: str = "ni"
    port: str = "HPC0"
    base: Address = 0xA001_0000
    axi_id: int = Field(16, ge=0, lt=AXI_IDS)
    slots: int = Field(16, ge=1, le=AXI_IDS)
    block_bytes: Positive = 16 << 10
    issue_ps: int = Field(470_000, ge=0)
    hop_ps: int = Field(830_000, ge=0)
    further_hop_ps: int = Field(312_500, ge=0)
    link_ps_per_kib: int = Field(999_024, ge=0)

    @model_validator(mode="after")
    def _ids_fit(self) -> RdmaPart:
        if self.ids.stop > AXI_IDS:
            raise ValueError(
                f"axi_id = {self.axi_id} and {self.slots} slots need AXI IDs up to {self.ids.stop - 1}; "
                f"a port has {AXI_IDS}: take axi_id = {AXI_IDS - self.slots} or less"
            )
        return self

    @property
    def ids(self) -> range:
        """AXI IDs it drives."""
        return range(self.axi_id, self.axi_id + self.slots)


PlMaster = Annotated[AxiCdmaPart | RdmaPart, Field(discriminator="type")]
_MASTERS: Final[TypeAdapter[list[AxiCdmaPart | RdmaPart]]] = TypeAdapter(list[PlMaster])


class PlPart(_Part):
    """The programmable logic: its ports into the PS, its interrupts, the masters built there by default."""

    spis: tuple[int, ...]
    width_bits: Literal[32, 64, 128]
    clock_mhz: Positive
    ports: dict[str, PortPart]
    masters: tuple[PlMaster, ...] = ()


class Platform(_Part):
    """A chip."""

    name: str
    title: str
    memory: MemoryMap
    smmu: SmmuPart
    dma: tuple[DmaPart, ...]
    pl: PlPart

    @model_validator(mode="after")
    def _fits_together(self) -> Platform:
        tbus = self.smmu.block.tbus
        users = [(f"dma {part.name}", part.tbu) for part in self.dma]
        users += [
            (f"pl.ports.{name}", port.tbu) for name, port in self.pl.ports.items() if port.tbu is not None
        ]
        for user, tbu in users:
            if not 0 <= tbu < tbus:
                raise ValueError(f"{user}: tbu = {tbu}, but smmu.block.micro_tlb_entries lists {tbus} TBUs")
        self.pl_specs(self.pl.masters)
        return self

    def zdma_specs(self) -> list[ZdmaSpec]:
        """Every channel of the PS' DMA controllers."""
        return [spec for part in self.dma for spec in part.specs()]

    def pl_specs(self, masters: Iterable[AxiCdmaPart | RdmaPart]) -> list[CdmaSpec | RdmaSpec]:
        """What to build in the PL for `masters`; raises `PlatformError` if two get in each other's way."""
        masters = list(masters)
        if sum(isinstance(master, RdmaPart) for master in masters) > 1:
            raise PlatformError(
                "two PL masters of type rdma: a node has one network interface; take more slots"
            )
        names = _names(masters)
        spis = self._spis(masters, names)
        owners: dict[int, tuple[str, str]] = {}  # stream ID -> name, place
        specs: list[CdmaSpec | RdmaSpec] = []
        for master, name, spi in zip(masters, names, spis, strict=True):
            port = self._port(master.port, name)
            if port.first_stream is not None:
                place = f"port {master.port}, AXI ID {_span(master.ids)}"
                for axi_id in master.ids:
                    stream = port.first_stream + axi_id
                    other, where = owners.setdefault(stream, (name, place))
                    if other != name:
                        raise PlatformError(
                            f"PL masters {other} ({where}) and {name} ({place}) would both present stream "
                            f"{stream:#06x}: give {name} another axi_id or another port"
                        )
            stream_base = None if port.first_stream is None else port.first_stream + master.axi_id
            specs.append(self._spec(master, name, spi, stream_base))
        return specs

    def _spec(
        self, master: AxiCdmaPart | RdmaPart, name: str, spi: int, stream: int | None
    ) -> CdmaSpec | RdmaSpec:
        if isinstance(master, AxiCdmaPart):
            width, clock = master.width_bits or self.pl.width_bits, master.clock_mhz or self.pl.clock_mhz
            path = DataPath(width // 8, clock, master.setup_cycles)
            return CdmaSpec(
                name, master.base, master.size, spi, stream, path, master.length_bits, master.abort_response
            )
        if stream is None:
            raise PlatformError(
                f"PL master {name}: port {master.port} does not pass the SMMU, and the network interface "
                "needs it to translate; use an HPC or HP port"
            )
        return RdmaSpec(
            name=name,
            base=master.base,
            size=master.size,
            spi=spi,
            stream_base=stream,
            slots=master.slots,
            block_bytes=master.block_bytes,
            issue_ps=master.issue_ps,
            hop_ps=master.hop_ps,
            further_hop_ps=master.further_hop_ps,
            link_ps_per_kib=master.link_ps_per_kib,
        )

    def _port(self, port: str, name: str) -> PortPart:
        if port not in self.pl.ports:
            raise PlatformError(
                f"PL master {name}: platform {self.name} has no port {port!r}; "
                f"it has {', '.join(self.pl.ports)}"
            )
        return self.pl.ports[port]

    def _spis(self, masters: Sequence[AxiCdmaPart | RdmaPart], names: Sequence[str]) -> list[int]:
        """Interrupt of each master: its own choice, else the first of the PL's that nobody has."""
        owner: dict[int, str] = {}
        for master, name in zip(masters, names, strict=True):
            if master.spi is None:
                continue
            if master.spi not in self.pl.spis:
                raise PlatformError(
                    f"PL master {name}: spi = {master.spi}; the PL's interrupts are {self.pl.spis}"
                )
            if owner.setdefault(master.spi, name) != name:
                raise PlatformError(f"PL masters {owner[master.spi]} and {name} both drive SPI {master.spi}")
        result = []
        for master, name in zip(masters, names, strict=True):
            spi = master.spi
            if spi is None:
                spi = next((n for n in self.pl.spis if n not in owner), None)
            if spi is None:
                raise PlatformError(
                    f"PL master {name}: all {len(self.pl.spis)} interrupts of the PL are taken"
                )
            owner[spi] = name
            result.append(spi)
        return result


def _names(masters: Sequence[AxiCdmaPart | RdmaPart]) -> list[str]:
    """Name of each master: its own, or cdma0, cdma1, ... in order."""
    names: list[str] = []
    taken = {master.name for master in masters}
    free = (f"cdma{n}" for n in range(len(masters) + len(taken)) if f"cdma{n}" not in taken)
    for master in masters:
        name = master.name or next(free)
        if name in names:
            raise PlatformError(f"two PL masters are called {name}")
        names.append(name)
    return names


def _span(ids: range) -> str:
    return str(ids[0]) if len(ids) == 1 else f"{ids[0]} to {ids[-1]}"


def parse_masters(
    masters: Iterable[Mapping[str, Any] | AxiCdmaPart | RdmaPart],
) -> list[AxiCdmaPart | RdmaPart]:
    """Check PL masters written as mappings (``{"type": "axi_cdma", "port": "HPC0", ...}``)."""
    try:
        return _MASTERS.validate_python(list(masters))
    except ValidationError as error:
        raise PlatformError(_explain("pl_masters", error)) from None


def available() -> list[str]:
    """Names of the platforms that come with the package."""
    folder = resources.files("unimem_node.mpsoc") / "platforms"
    return sorted(
        entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")
    )


def load(platform: str | Path) -> Platform:
    """The platform of that name, or of that ``.toml`` file; raises `PlatformError`."""
    path = Path(platform)
    if path.suffix == ".toml":
        try:
            return parse(path.read_text(encoding="utf-8"), str(path))
        except OSError as error:
            raise PlatformError(f"platform file {path}: {error.strerror}") from error
    if str(platform) not in available():
        raise PlatformError(
            f"there is no platform {str(platform)!r}; there are {', '.join(available())}, "
            "or name a .toml file"
        )
    return _packaged(str(platform))


@lru_cache(maxsize=16)
def _packaged(name: str) -> Platform:
    """A platform that comes with the package; many chips of one process share it."""
    return parse(
        (resources.files("unimem_node.mpsoc") / "platforms" / f"{name}.toml").read_text("utf-8"), name
    )


def parse(text: str, origin: str) -> Platform:
    """The platform written in `text` (TOML); `origin` is named in errors."""
    try:
        return Platform.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise PlatformError(f"platform {origin}: not TOML: {error}") from None
    except ValidationError as error:
        raise PlatformError(_explain(f"platform {origin}", error)) from None


def _explain(origin: str, error: ValidationError) -> str:
    """One line for each thing that is wrong: where, what, and what was found there."""
    lines = []
    for item in error.errors(include_url=False):
        place = ".".join(str(step) for step in item["loc"]) or "(as a whole)"
        found = item.get("input")
        shown = fmt(found) if isinstance(found, int) and found > AXI_IDS else repr(found)
        lines.append(f"{origin}: {place}: {item['msg']}")
        if isinstance(found, int | float | str):
            lines[-1] += f" (found {shown})"
    return "\n".join(lines)
