"""What the kernel's work costs: interrupts, page faults of DMA, pinning; in picoseconds.

One published figure calibrates the path of a fault: a small RDMA whose destination takes a minor fault needs
about 38 µs end to end (IEEE TPDS 33(12) 2022, 10.1109/TPDS.2022.3175666, experiment E5). What the wire and
the protocol do not use of it is the kernel's; how it divides among the steps is not published, so that
`queue_ps` is the rest. The costs of pages do not come from that figure, nor from the 1.46 × of the same paper
(E6), which is there to be validated.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class KernelTiming:
    """The ``[kernel]`` table of a platform's file. Raises `ValueError` for a value that cannot be.

    ``irq_ps``: from the interrupt to the first instruction of its handler. [U] some µs under Linux.
    ``handler_ps``: the SMMU driver's handler: six registers read and written over APB, the fault queued. [U]
    ``queue_ps``: until the thread that resolves faults runs; not when it runs already.
    Calibrated: what E5's 38 µs leave.
    ``resolve_ps``: for each fault, before its first page: process, area, locks. [U]
    ``touch_page_ps``: one page made present: allocated, cleared, entered in the table. [U] 1.0 µs on a fast
    desktop core (median of 100, Linux 6.6), twice that on a Cortex-A53.
    ``present_page_ps``: one page that is present already, found so. [U]
    ``major_page_ps``: one page read from swap or a file, besides. arXiv 2310.11062: + 60 µs (E16).
    ``notify_ps``: the network interface told: five registers written, a barrier. [U]
    ``notify_pages``: it is told after so many pages of a longer run. [D] one block of 16 KiB.
    ``call_ps``: a system call, in and out: what pinning and touching beforehand cost at least. [U]
    ``pin_page_ps``, ``unpin_page_ps``: reference count and books of one page that is present. [U]
    ``refuse_ps``: a page that cannot be had is refused for so long. [D]
    ``progress_ps``, ``progress_rounds``: a page that is resolved so many times, each within that time of the
    one before, makes no progress. [D] more rounds than the network interface allows a packet.
    """

    irq_ps: int = 2_000_000
    handler_ps: int = 3_000_000
    queue_ps: int = 24_500_000
    resolve_ps: int = 2_000_000
    touch_page_ps: int = 2_000_000
    present_page_ps: int = 100_000
    major_page_ps: int = 60_000_000
    notify_ps: int = 500_000
    notify_pages: int = 4
    call_ps: int = 1_000_000
    pin_page_ps: int = 200_000
    unpin_page_ps: int = 100_000
    refuse_ps: int = 1_000_000_000
    progress_ps: int = 1_000_000_000
    progress_rounds: int = 32

    def __post_init__(self) -> None:
        for field in fields(self):
            least = 1 if field.name in ("notify_pages", "progress_rounds") else 0
            if getattr(self, field.name) < least:
                raise ValueError(f"kernel.{field.name} = {getattr(self, field.name)}: at least {least}")

    def pages_ps(self, minor: int, major: int, present: int) -> int:
        """Cost of touching pages: `minor` and `major` of them absent, `present` not."""
        touched = (minor + major) * self.touch_page_ps
        return touched + major * self.major_page_ps + present * self.present_page_ps
