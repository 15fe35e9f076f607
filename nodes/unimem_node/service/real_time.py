"""What of a platform is different when a node is a process: its network interface waits in real time.

The platform's times are those of the hardware: a time-out of 50 µs is right for an answer that takes 5 µs of
virtual time. Here the answer comes from another process, when the operating system lets it run: the bounds
are those of a network between user processes, [D], and the loop's clock ticks in milliseconds.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from unimem_node.mpsoc.masters import RdmaPart
from unimem_node.mpsoc.platform import Platform
from unimem_node.mpsoc.platform import load as load_platform

_MS: Final = 1_000_000_000

#: A peer that says nothing is given up after 50 + 100 + ... + 1600 + 3 * 2000 ms: about nine seconds.
TIMES: Final = {
    "rto_min_ps": 50 * _MS,
    "rto_first_ps": 200 * _MS,
    "rto_max_ps": 2000 * _MS,
    "fault_retry_ps": 20 * _MS,
    "order_retry_ps": 1 * _MS,
}


def monotonic_ps() -> int:
    """The clock of the protocol's timers."""
    return time.monotonic_ns() * 1000


def real_time_platform(name: str | Path) -> Platform:
    """A platform (preset or file) whose network interface waits in real time. Raises `PlatformError`."""
    platform = load_platform(name)
    masters = tuple(
        part.model_copy(update=TIMES) if isinstance(part, RdmaPart) else part for part in platform.pl.masters
    )
    return platform.model_copy(update={"pl": platform.pl.model_copy(update={"masters": masters})})
