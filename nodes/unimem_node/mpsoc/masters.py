"""Masters in the programmable logic: what a platform, or the user of a chip, builds behind the PL's ports.

Each kind of master is a table of the platform's file. It says which AXI IDs it drives, and so which streams
it presents, and makes the specification that its model is built from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from unimem.addresses import fmt
from unimem_node.dma import AxiDmaSpec, CdmaSpec, DataPath
from unimem_node.fabric import RdmaSpec
from unimem_node.mpsoc.parts import TBU_SHIFT, Address, Name, Part, PlatformError, PortPart, Positive, Spi

#: AXI IDs that an AxUSER-less master can have behind the widest port.
_MOST_IDS: Final = 1 << TBU_SHIFT
_MOST_SLOTS: Final = 64

Width = Literal[32, 64, 128]
PlSpec = CdmaSpec | AxiDmaSpec | RdmaSpec


class _Master(Part):
    """What every master in the PL has."""

    port: str
    base: Address
    size: Positive = 0x1_0000
    axi_id: int = Field(0, ge=0, lt=_MOST_IDS)
    spi: Spi | None = None

    @property
    def lines(self) -> tuple[int | None, ...]:
        """Its interrupts: chosen, or None to be given."""
        return (self.spi,)


class _Engine(_Master):
    """A DMA engine: presents one AXI ID."""

    name: Name | None = None
    width_bits: Width | None = None
    clock_mhz: Positive | None = None
    setup_cycles: int = Field(20, ge=0)
    burst_beats: int = Field(16, ge=1, le=256)
    outstanding: int = Field(8, ge=1, le=128)
    length_bits: int = Field(26, ge=8, le=26)
    abort_response: Literal["SLVERR", "DECERR"] = "SLVERR"
    scatter_gather: bool = True
    delay_cycles: Positive = 125

    @property
    def ids(self) -> range:
        """AXI IDs it drives."""
        return range(self.axi_id, self.axi_id + 1)

    def path(self, pl: PlPart) -> DataPath:
        """Its AXI side."""
        width, clock = self.width_bits or pl.width_bits, self.clock_mhz or pl.clock_mhz
        return DataPath(width // 8, clock, self.setup_cycles, self.burst_beats, self.outstanding)


class AxiCdmaPart(_Engine):
    """An AXI CDMA."""

    type: Literal["axi_cdma"]

    def spec(self, name: str, spis: tuple[int, ...], stream: int | None, pl: PlPart) -> CdmaSpec:
        """What its model is built from; `stream` is None off the SMMU."""
        return CdmaSpec(
            name,
            self.base,
            self.size,
            spis[0],
            stream,
            self.path(pl),
            self.length_bits,
            self.abort_response,
            self.scatter_gather,
            self.delay_cycles,
        )


class AxiDmaPart(_Engine):
    """An AXI DMA whose stream is looped back; it has two interrupts, MM2S (`spi`) and S2MM."""

    type: Literal["axi_dma"]
    spi_s2mm: Spi | None = None
    fifo_bytes: int = Field(1 << 16, ge=16, le=1 << 20)

    @property
    def lines(self) -> tuple[int | None, ...]:
        """Its interrupts: chosen, or None to be given."""
        return self.spi, self.spi_s2mm

    def spec(self, name: str, spis: tuple[int, ...], stream: int | None, pl: PlPart) -> AxiDmaSpec:
        """What its model is built from; `stream` is None off the SMMU."""
        return AxiDmaSpec(
            name,
            self.base,
            self.size,
            spis[0],
            spis[1],
            stream,
            self.path(pl),
            self.length_bits,
            self.abort_response,
            self.scatter_gather,
            self.fifo_bytes,
            self.delay_cycles,
        )


class RdmaPart(_Master):
    """The RDMA network interface: presents one AXI ID for each PD slot. What the rest means: `RdmaSpec`."""

    type: Literal["rdma"]
    name: Name = "ni"
    port: str = "HPC0"
    base: Address = 0xA001_0000
    axi_id: int = Field(16, ge=0, lt=_MOST_IDS)
    slots: int = Field(16, ge=1, le=_MOST_SLOTS)
    block_bytes: Positive = 16 << 10
    peer_bytes: Positive = 4 << 20
    parked_bytes: int = Field(1 << 20, ge=0)
    paths: int = Field(1, ge=1, le=4)
    cell_bytes: Positive = 256
    rto_min_ps: Positive = 50_000_000
    rto_first_ps: Positive = 200_000_000
    rto_max_ps: Positive = 10_000_000_000
    retries: Positive = 8
    fault_rounds: Positive = 16
    fault_retry_ps: Positive = 2_000_000_000
    order_retry_ps: Positive = 5_000_000
    checks: bool = True
    issue_ps: int = Field(161_000, ge=0)
    hop_ps: int = Field(767_500, ge=0)
    further_hop_ps: int = Field(312_500, ge=0)
    link_ps_per_kib: int = Field(999_024, ge=0)

    @property
    def ids(self) -> range:
        """AXI IDs it drives."""
        return range(self.axi_id, self.axi_id + self.slots)

    def spec(self, name: str, spis: tuple[int, ...], stream: int | None, pl: PlPart) -> RdmaSpec:
        """What its model is built from; raises `PlatformError` off the SMMU."""
        if stream is None:
            raise PlatformError(
                f"PL master {name}: port {self.port} does not pass the SMMU, and the network interface "
                f"needs it to translate; use {pl.translated_ports()}"
            )
        own = self.model_dump(exclude={"type", "name", "port", "axi_id", "spi"})
        try:
            return RdmaSpec(name=name, spi=spis[0], stream_base=stream, **own)
        except ValueError as error:
            raise PlatformError(f"PL master {name}: {error}") from None


PlMaster = AxiCdmaPart | AxiDmaPart | RdmaPart
_TaggedMaster = Annotated[PlMaster, Field(discriminator="type")]
_MASTERS: Final[TypeAdapter[list[PlMaster]]] = TypeAdapter(list[_TaggedMaster])


class PlPart(Part):
    """The programmable logic: its ports into the PS, its interrupts, the masters built there by default."""

    spis: tuple[Spi, ...] = Field(min_length=1)
    width_bits: Width
    clock_mhz: Positive
    ports: dict[str, PortPart]
    masters: tuple[_TaggedMaster, ...] = ()

    @model_validator(mode="after")
    def _ports_share_no_stream(self) -> PlPart:
        owners: dict[int, str] = {}
        for name, port in self.ports.items():
            for stream in port.streams:
                other = owners.setdefault(stream, name)
                if other != name:
                    raise ValueError(f"ports {other} and {name} would both have stream {stream:#06x}")
        return self

    def translated_ports(self) -> str:
        """Names of the ports that pass the SMMU, in words."""
        return " or ".join(name for name, port in self.ports.items() if port.streams) or "(it has none)"

    def specs(self, masters: Iterable[PlMaster], chip: str) -> list[PlSpec]:
        """What to build for `masters`; raises `PlatformError` if two get in each other's way."""
        masters = list(masters)
        if sum(isinstance(master, RdmaPart) for master in masters) > 1:
            raise PlatformError(
                "two PL masters of type rdma: a node has one network interface; take more slots"
            )
        names = _names(masters)
        spis = self._spis(masters, names)
        owners: dict[int, tuple[str, str]] = {}  # stream ID -> name, place
        specs: list[PlSpec] = []
        for master, name, lines in zip(masters, names, spis, strict=True):
            port = self._port(master, name, chip)
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
            specs.append(master.spec(name, lines, stream_base, self))
        return specs

    def _port(self, master: PlMaster, name: str, chip: str) -> PortPart:
        if master.port not in self.ports:
            raise PlatformError(
                f"PL master {name}: platform {chip} has no port {master.port!r}; "
                f"it has {', '.join(self.ports)}"
            )
        port = self.ports[master.port]
        if master.ids.stop > port.axi_ids:
            most = port.axi_ids - len(master.ids)
            raise PlatformError(
                f"PL master {name}: axi_id = {master.axi_id} needs AXI IDs up to {master.ids.stop - 1}; "
                f"port {master.port} has {port.axi_ids}: "
                + (f"take axi_id = {most} or less" if most >= 0 else "take fewer slots")
            )
        return port

    def _spis(self, masters: Sequence[PlMaster], names: Sequence[str]) -> list[tuple[int, ...]]:
        """Interrupts of each master: its own choices, else the first of the PL's that nobody has."""
        owner: dict[int, str] = {}
        for master, name in zip(masters, names, strict=True):
            for spi in master.lines:
                if spi is None:
                    continue
                if spi not in self.spis:
                    raise PlatformError(f"PL master {name}: spi = {spi}; the PL's interrupts are {self.spis}")
                if spi in owner:
                    raise PlatformError(f"PL masters {owner[spi]} and {name} both drive SPI {spi}")
                owner[spi] = name
        free = (spi for spi in self.spis if spi not in owner)
        result = []
        for master, name in zip(masters, names, strict=True):
            given = tuple(next(free, None) if spi is None else spi for spi in master.lines)
            if None in given:
                raise PlatformError(f"PL master {name}: all {len(self.spis)} interrupts of the PL are taken")
            result.append(tuple(spi for spi in given if spi is not None))
        return result


def _names(masters: Sequence[PlMaster]) -> list[str]:
    """Name of each master: its own, or cdma0, cdma1, ... (AXI DMA: dma0, ...) in order."""
    names: list[str] = []
    taken = {master.name for master in masters}
    most = len(masters) + len(taken)
    free = {
        stem: iter([f"{stem}{n}" for n in range(most) if f"{stem}{n}" not in taken])
        for stem in ("cdma", "dma")
    }
    for master in masters:
        name = master.name or next(free["dma" if isinstance(master, AxiDmaPart) else "cdma"])
        if name in names:
            raise PlatformError(f"two PL masters are called {name}")
        names.append(name)
    return names


def _span(ids: range) -> str:
    return str(ids[0]) if len(ids) == 1 else f"{ids[0]} to {ids[-1]}"


def parse_masters(masters: Iterable[Mapping[str, Any] | PlMaster]) -> list[PlMaster]:
    """Check PL masters written as mappings (``{"type": "axi_cdma", "port": "HPC0", ...}``)."""
    try:
        return _MASTERS.validate_python(list(masters))
    except ValidationError as error:
        raise PlatformError(explain("pl_masters", error)) from None


def explain(origin: str, error: ValidationError) -> str:
    """One line for each thing that is wrong: where, what, and what was found there."""
    lines = []
    for item in error.errors(include_url=False):
        place = ".".join(str(step) for step in item["loc"]) or "(as a whole)"
        found = item.get("input")
        shown = fmt(found) if isinstance(found, int) and found > _MOST_SLOTS else repr(found)
        lines.append(f"{origin}: {place}: {item['msg']}")
        if isinstance(found, int | float | str):
            lines[-1] += f" (found {shown})"
    return "\n".join(lines)
