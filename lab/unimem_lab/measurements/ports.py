"""N masters stream to DRAM at the same time: what each gets, and what DRAM gives in all (E13).

Published (FPT 2019, on a ZCU102): 75 % of theoretical on average; masters whose ports share a port of the DDR
controller compete. The 75 % are a parameter of the model (calibrated); who competes with whom follows from
which TBU drains into which port.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from unimem_lab.measurements.chip import DATA, OCM, OCM_BYTES, Chip, Engine, MeasurementError, variant
from unimem_node.mpsoc.platform import Platform

#: Bytes of one transfer: as large as the memory on the chip, and long beside set-up and latency.
_TRANSFER: Final = OCM_BYTES
_PS_PER_S: Final = 10**12


@dataclass(frozen=True, slots=True)
class PortStreams:
    """Bandwidths in bytes a second: of each master (`per_master`), of DRAM in all, and of its peak.

    A copy counts twice in `total`: its bytes are read from DRAM and written to it.
    """

    masters: tuple[str, ...]
    direction: str
    per_master: npt.NDArray[np.float64]
    total: float
    peak: float

    @property
    def of_peak(self) -> float:
        """Part of the data bus' peak that was reached: the figure E13 compares."""
        return self.total / self.peak


def stream_ports(
    masters: Sequence[str],
    direction: Literal["read", "write", "copy"] = "copy",
    *,
    window_us: int = 500,
    clock_mhz: int = 300,
    busy_mb_per_s: Mapping[str, int] | None = None,
    platform: str | Platform = "zynqmp",
) -> PortStreams:
    """Let `masters` stream for `window_us` of simulated time, each from transfer to transfer.

    A master is a PL port, behind which an AXI CDMA is built (``"HP0"``; twice in the list: two of them), or a
    channel of the PS (``"fpd0"``). `direction`: DRAM to on-chip memory, the other way, or DRAM to DRAM. No
    address is translated. `busy_mb_per_s`: traffic of others by DRAM port, as a DisplayPort's
    (``{"DDR3": 2000}``). Raises `PlatformError` for a port that is none, `MeasurementError` for too short a
    window.
    """
    chip_spec = variant(platform, busy_mb_per_s=busy_mb_per_s)
    if chip_spec.dram_ports is None:
        raise MeasurementError(f"platform {chip_spec.name} says nothing of its DRAM ports")
    in_pl = [name for name in masters if name in chip_spec.pl.ports]
    chip = Chip(chip_spec, in_pl, clock_mhz=clock_mhz)
    cdmas = iter(range(len(in_pl)))
    engines = [chip.cdma(next(cdmas)) if name in chip_spec.pl.ports else chip.zdma(name) for name in masters]
    moved, last_ps = _stream(chip, engines, direction, window_us * 1_000_000)
    chip.close()
    per_master = np.array(moved, np.float64) * _PS_PER_S / np.array(last_ps, np.float64)
    each = 2 if direction == "copy" else 1
    return PortStreams(
        tuple(masters),
        direction,
        per_master,
        float(per_master.sum()) * each,
        _PS_PER_S * 1024 / chip_spec.dram_ports.peak_ps_per_kib,
    )


def _stream(
    chip: Chip, engines: Sequence[Engine], direction: str, window_ps: int
) -> tuple[list[int], list[int]]:
    """(bytes, time of the end) of the transfers that each engine has completed within the window."""
    places = [
        (
            OCM if direction == "write" else DATA + 2 * n * _TRANSFER,
            OCM if direction == "read" else DATA + (2 * n + 1) * _TRANSFER,
        )
        for n in range(len(engines))
    ]
    moved, last_ps = [0] * len(engines), [0] * len(engines)
    for engine, place in zip(engines, places, strict=True):
        chip.start(engine, *place, _TRANSFER)
    scheduler = chip.soc.scheduler
    while scheduler.next_ps is not None and scheduler.next_ps <= window_ps:
        scheduler.step()
        for n, engine in enumerate(engines):
            if chip.done(engine):
                moved[n] += _TRANSFER
                last_ps[n] = chip.now_ps
                chip.start(engine, *places[n], _TRANSFER)
    if 0 in moved:
        raise MeasurementError(f"in {window_ps} ps {engines[moved.index(0)].name} has not moved anything")
    return moved, last_ps
