"""A platform: which chip is simulated, as data (``platforms/*.toml``; ZynqMP: UG1085, chapters 10 and 16).

A platform says where memory, the SMMU, the DMA engines and the PL's ports are and how fast they are. It is
checked when it is loaded; what does not fit together is refused with the place and the way out. Adding a
platform takes a file and no code: a TOML file anywhere, given by its path, or one in ``platforms/``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from functools import lru_cache
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Final

from pydantic import ValidationError, model_validator

from unimem.addresses import fmt
from unimem_node.dma import ZdmaSpec
from unimem_node.kernel.timing import KernelTiming
from unimem_node.memory import DramSpec
from unimem_node.mpsoc.masters import (
    AxiCdmaPart,
    PlMaster,
    PlPart,
    PlSpec,
    RdmaPart,
    explain,
    parse_masters,
)
from unimem_node.mpsoc.parts import (
    CpuPart,
    DmaPart,
    DramPart,
    MemoryMap,
    Name,
    Part,
    PlatformError,
    SmmuPart,
)
from unimem_node.smmu.wrapper import WRAPPER_SIZE

__all__ = [
    "AxiCdmaPart",
    "PlMaster",
    "Platform",
    "PlatformError",
    "RdmaPart",
    "available",
    "load",
    "parse",
    "parse_masters",
]

_CTTW: Final = 1 << 14  # IDR0: coherent translation table walks


class Platform(Part):
    """A chip."""

    name: Name
    title: str
    memory: MemoryMap
    dram_ports: DramPart | None = None
    cpu: CpuPart = CpuPart()
    smmu: SmmuPart
    dma: tuple[DmaPart, ...] = ()
    pl: PlPart
    kernel: KernelTiming = KernelTiming()

    @model_validator(mode="after")
    def _fits_together(self) -> Platform:
        tbus = self.smmu.block.tbus
        users = [(f"dma {part.name}", part.tbu) for part in self.dma]
        users += [
            (f"pl.ports.{name}", port.tbu) for name, port in self.pl.ports.items() if port.tbu is not None
        ]
        users += [("cpu.coherent_tbus", tbu) for tbu in self.cpu.coherent_tbus]
        if self.dram_ports is not None:
            for name, port_ in self.dram_ports.ports.items():
                users += [(f"dram_ports.ports.{name}", tbu) for tbu in port_.tbus]
            peak, reached = self.dram_ports.peak_ps_per_kib, self.smmu.block.timing.memory_ps_per_kib
            if peak > reached:
                raise ValueError(
                    f"dram_ports.peak_ps_per_kib = {peak} is slower than what is reached, "
                    f"smmu.block.timing.memory_ps_per_kib = {reached}"
                )
        for user, tbu in users:
            if not 0 <= tbu < tbus:
                raise ValueError(f"{user}: tbu = {tbu}, but smmu.block.micro_tlb_entries lists {tbus} TBUs")
        if self.cpu.write_back_cache is not None and self.smmu.block.idr0 & _CTTW:
            raise ValueError(
                "cpu.write_back_cache: smmu.block.idr0 says that table walks are coherent (CTTW = 1), but "
                "the model's walks ask no cache: clear bit 14, or leave the cache out"
            )
        self.pl_specs(self.pl.masters)
        return self

    def with_cache(self, lines: int, line_bytes: int = 64) -> Platform:
        """The same chip with the CPU's write-back cache modelled; raises `PlatformError`."""
        whole = self.model_dump()
        whole["cpu"]["write_back_cache"] = {"lines": lines, "line_bytes": line_bytes}
        try:
            return Platform.model_validate(whole)
        except ValidationError as error:
            raise PlatformError(explain(f"platform {self.name}", error)) from None

    def dram_spec(self) -> DramSpec:
        """The DRAM controller, and its ports if the platform says which there are."""
        reached = self.smmu.block.timing.memory_ps_per_kib
        return DramSpec(reached) if self.dram_ports is None else self.dram_ports.spec(reached)

    def zdma_specs(self) -> list[ZdmaSpec]:
        """Every channel of the PS' DMA controllers."""
        return [spec for part in self.dma for spec in part.specs()]

    def pl_specs(self, masters: Iterable[PlMaster]) -> list[PlSpec]:
        """What to build in the PL for `masters`; raises `PlatformError` if two get in each other's way."""
        specs = self.pl.specs(masters, self.name)
        self._check_places(specs)
        return specs

    def _check_places(self, masters: Iterable[PlSpec]) -> None:
        """Refuse two parts at one address, or of one name."""
        places = [(f"memory.dram.{n}", part.base, part.size) for n, part in enumerate(self.memory.dram)]
        if self.memory.on_chip is not None:
            places.append(("memory.on_chip", self.memory.on_chip.base, self.memory.on_chip.size))
        places.append(("smmu", self.smmu.base, self.smmu.block.size))
        if self.smmu.wrapper is not None:
            places.append(("smmu_reg", self.smmu.wrapper, WRAPPER_SIZE))
        places += [(spec.name, spec.base, spec.size) for spec in (*self.zdma_specs(), *masters)]
        names = [name for name, _, _ in places]
        for name in names:
            if names.count(name) > 1:
                raise PlatformError(f"two parts of platform {self.name} are called {name}")
        places.sort(key=lambda place: place[1])
        for (name, base, size), (other, start, _) in pairwise(places):
            if start < base + size:
                raise PlatformError(
                    f"{other} at {fmt(start)} overlaps {name} at {fmt(base)}, which has {fmt(size)} bytes"
                )


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
        except UnicodeDecodeError as error:
            raise PlatformError(f"platform file {path}: not UTF-8 text: {error}") from None
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
        raise PlatformError(explain(f"platform {origin}", error)) from None
