"""Whose stream is that, whose interrupt? What the numbers of a chip mean, for people.

A stream ID is made of the TBU that a master is behind and of its master ID (UG1085, table 16-13); that of a
PL master depends on the AXI ID it drives. Wrong ones are the most frequent mistake: the SMMU then sees a
stream that nobody has routed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import assert_never

from unimem_node.dma import AxiDmaSpec, CdmaSpec, ZdmaSpec
from unimem_node.fabric import RdmaSpec
from unimem_node.mpsoc.masters import PlSpec
from unimem_node.mpsoc.parts import TBU_SHIFT
from unimem_node.mpsoc.platform import Platform


@dataclass(frozen=True, slots=True)
class StreamRange:
    """Stream IDs from `first` on; `member` is what one of several is ("AXI ID", "slot")."""

    first: int
    count: int
    name: str
    member: str = ""

    def __contains__(self, stream: int) -> bool:
        return self.first <= stream < self.first + self.count

    def word(self, stream: int) -> str:
        """The name of one stream of the range."""
        return f"{self.name} {self.member} {stream - self.first}" if self.member else self.name


@dataclass(frozen=True, slots=True)
class ChipPart:
    """A device of the chip: its name on the bus, what it is, its interrupts, the streams it presents."""

    name: str
    what: str
    spis: tuple[int, ...] = ()
    streams: tuple[StreamRange, ...] = ()


def parts_of(platform: Platform, masters: Iterable[PlSpec]) -> tuple[ChipPart, ...]:
    """Every device of a chip whose PL has `masters`."""
    smmu = platform.smmu
    parts = [ChipPart("smmu", "MMU-500", (smmu.block.spi,))]
    if smmu.wrapper is not None:
        parts.append(ChipPart("smmu_reg", "SMMU_REG: collects the SMMU's interrupts"))
    parts += [_part(spec) for spec in (*platform.zdma_specs(), *masters)]
    return tuple(parts)


def _part(spec: ZdmaSpec | PlSpec) -> ChipPart:
    if isinstance(spec, ZdmaSpec):
        what = f"ZDMA channel, {8 * spec.path.width_bytes} bit"
        return ChipPart(spec.name, what, (spec.spi,), (StreamRange(spec.stream_id, 1, spec.name),))
    if isinstance(spec, CdmaSpec):
        own = () if spec.stream_id is None else (StreamRange(spec.stream_id, 1, spec.name),)
        return ChipPart(spec.name, f"AXI CDMA, {8 * spec.path.width_bytes} bit", (spec.spi,), own)
    if isinstance(spec, AxiDmaSpec):
        own = () if spec.stream_id is None else (StreamRange(spec.stream_id, 1, spec.name),)
        spis = (spec.spi, spec.spi_s2mm)
        return ChipPart(spec.name, f"AXI DMA, {8 * spec.path.width_bytes} bit", spis, own)
    if isinstance(spec, RdmaSpec):
        slots = StreamRange(spec.stream_base, spec.slots, spec.name, "slot")
        return ChipPart(spec.name, "RDMA network interface", (spec.spi,), (slots,))
    assert_never(spec)


def streams_of(platform: Platform, parts: Iterable[ChipPart]) -> tuple[StreamRange, ...]:
    """Every range of stream IDs that means something: the parts' own, and the PL's ports."""
    own = [streams for part in parts for streams in part.streams]
    ports = [
        StreamRange(port.first_stream, port.axi_ids, f"port {name}", "AXI ID")
        for name, port in platform.pl.ports.items()
        if port.first_stream is not None
    ]
    return tuple(sorted([*own, *ports], key=lambda streams: (streams.first, -streams.count)))


def stream_name(streams: Sequence[StreamRange], stream: int) -> str:
    """Say whose stream that is: ``cdma0 (port HPC0 AXI ID 0)``; empty when nobody presents it."""
    found = [r.word(stream) for r in sorted(streams, key=lambda r: r.count) if stream in r]
    if not found:
        return ""
    return found[0] if len(found) == 1 else f"{found[0]} ({', '.join(found[1:])})"


def tbu_of(stream: int) -> int:
    """The TBU that a stream comes through."""
    return stream >> TBU_SHIFT
