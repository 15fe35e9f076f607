"""What the sources of `deviations` demand, from what QEMU showed, where any program may meet a difference."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Final

from differential.machines import Moment, Run
from differential.programs import CTRL2, DONE, ISR, SCATTER_GATHER, Write

#: STATUS.STATE of xzdma_hw.h, which is ours.
DONE_STATE, PAUSED, BUSY, ERROR = 0, 1, 2, 3
_ADDRESS_BITS: Final = 49


def status_encoding(run: Run) -> None:
    """QEMU's own numbers for its states, in the register: 1 enabled, 2 paused."""
    for moment in run.moments:
        status = moment.registers["STATUS"]
        moment.registers["STATUS"] = {1: BUSY, 2: PAUSED}.get(status, status)


def no_payload_address(run: Run) -> None:
    """Not compared, as long as QEMU's are what they always are."""
    for moment in run.moments:
        for name in ("SRC_CUR_PYLD_LSB", "SRC_CUR_PYLD_MSB", "DST_CUR_PYLD_LSB", "DST_CUR_PYLD_MSB"):
            if moment.registers[name] == 0:
                del moment.registers[name]


def descriptor_address_in_simple_mode(run: Run) -> None:
    """A start in simple mode put SRC_START into SRC_CUR_DSCR, and its end added a descriptor's size."""
    behind = False
    for before, moment in pairwise(run.moments):
        if _starts(before, moment):
            behind = not before.registers["CTRL0"] & SCATTER_GATHER
        if behind:
            _one_descriptor_back(moment, "SRC")


def descriptor_address_after_an_error(run: Run) -> None:
    """A start that failed added a descriptor's size to DST_START."""
    behind = False
    for before, moment in pairwise(run.moments):
        if _starts(before, moment):
            behind = moment.registers["STATUS"] == ERROR
        if behind:
            _one_descriptor_back(moment, "DST")


def _one_descriptor_back(moment: Moment, side: str) -> None:
    low, high = f"{side}_CUR_DSCR_LSB", f"{side}_CUR_DSCR_MSB"
    address = ((moment.registers[high] << 32 | moment.registers[low]) - 16) % (1 << _ADDRESS_BITS)
    moment.registers[low], moment.registers[high] = address & 0xFFFF_FFFF, address >> 32


def _starts(before: Moment, moment: Moment) -> bool:
    step = moment.step
    return (
        isinstance(step, Write)
        and step.at == CTRL2
        and bool(step.value & 1)
        and before.registers["STATUS"] in (DONE_STATE, ERROR)
    )


def enabled_after_an_error(run: Run) -> None:
    for moment in run.moments:
        if moment.registers["STATUS"] == ERROR:
            moment.registers["CTRL2"] = 0


def done_after_an_error(run: Run) -> None:
    """An error ends the transfer, and the end of a transfer is DONE."""
    _keep_done(run, _fails)


def pause_clears_done(run: Run) -> None:
    """A pause leaves a DONE that was there."""
    _keep_done(run, lambda before, after: bool(before.registers["ISR"] & DONE) and not _clears_done(after))


def _fails(before: Moment, after: Moment) -> bool:
    return after.registers["STATUS"] == ERROR != before.registers["STATUS"]


def _clears_done(moment: Moment) -> bool:
    step = moment.step
    return isinstance(step, Write) and step.at == ISR and bool(step.value & DONE)


def _keep_done(run: Run, comes: Callable[[Moment, Moment], bool]) -> None:
    """Put the DONE that `comes` between two moments into ISR until software clears it; and the interrupt."""
    kept = False
    for before, after in pairwise(run.moments):
        kept = (kept and not _clears_done(after)) or comes(before, after)
        if kept:
            after.registers["ISR"] |= DONE
            after.irq = bool(after.registers["ISR"] & ~after.registers["IMR"])
