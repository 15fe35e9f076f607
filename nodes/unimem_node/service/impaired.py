"""A bad network for a real node: what `unimem_node.fabric.impair` says happens to the frames that leave it.

The decisions are a function of seed, link and packet number, as in simulation. Time is real: a packet that is
delayed or reordered waits on the event loop, to the millisecond; windows (``after``, ``for``) count from the
start of the node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np

from unimem_node.fabric.impair import parse

Send = Callable[[int, np.ndarray], None]


class ImpairedSend:
    """Calls `send` (peer index, frame) with what becomes of each frame; `flush` after those that come late.

    `text` is in the language of `unimem_node.fabric.impair.parse`, which raises ValueError.
    """

    def __init__(
        self,
        text: str,
        send: Send,
        flush: Callable[[], None],
        now_ps: Callable[[], int],
        name_of: Callable[[int], str],
    ) -> None:
        self._impair = parse(text)
        self._impair.name_of = name_of
        self._send, self._flush, self._now_ps = send, flush, now_ps
        self._start_ps = now_ps()
        self._loop = asyncio.get_running_loop()

    def __call__(self, peer: int, frame: np.ndarray) -> None:
        """Send what is left of a frame."""
        for delay_ps, arrives in self._impair.apply(frame, self._now_ps() - self._start_ps):
            if delay_ps:
                # The loop's clock ticks in milliseconds: less than one would be no delay at all.
                self._loop.call_later(max(delay_ps / 1e12, 0.001), self._late, peer, arrives)
            else:
                self._send(peer, arrives)

    def _late(self, peer: int, frame: np.ndarray) -> None:
        self._send(peer, frame)
        self._flush()

    def counts(self) -> dict[str, int]:
        """Packets that something happened to, by kind."""
        return self._impair.counts()
