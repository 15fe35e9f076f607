"""COPY at the node that owns the source: a WRITE of its own to the third, and an answer when that is over.

The request has its verdict, in the sense of the window, when the WRITE is posted: its duplicates are told to
come again while that is under way, and answered like those of any request when it is over. The WRITE is made
in the name of the same protection domain: it reads through this node's SMMU and writes through the third
one's, and what refused it is what the poster hears of. For the poster's clock all of it is waiting at the
target.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from unimem.wire import COMPLETION, WORK_REQUEST, CompletionFlags, Op, Side, Status

from . import _fast_columns as col
from .core import Core, Refusal
from .internal import Internal
from .source import Source


class Asked(NamedTuple):
    """A COPY under way: who asked, and what the answer has to say. Numbers as in the packet."""

    peer: int
    incarnation: int
    connection: int
    seq: int
    token: int
    pdid: int
    va: int
    arrived_ps: int


class ThirdParty:
    """The COPYs that other nodes (or this one) have asked of this node."""

    def __init__(self, core: Core, source: Source, internal: Internal) -> None:
        self._core, self._source, self._internal = core, source, internal
        self._under_way: set[tuple[int, int, int, int]] = set()
        #: Answers a COPY, with when it was over and why it failed; set by the target half.
        self.answer: Callable[[Asked, int, Refusal | None], None] = lambda asked, done_ps, refusal: None

    def busy(self, peer: int, seq: int) -> bool:
        """Whether this request of the peer's present connection is being carried out."""
        return bool(self._under_way) and (*self._life(peer), seq) in self._under_way

    def _life(self, peer: int) -> tuple[int, int, int]:
        row = self._core.state.peers[peer]
        return peer, int(row[col.P_SEEN_INCARNATION]), int(row[col.P_SEEN_CONNECTION])

    def begin(self, peer: int, packet: np.void) -> None:
        """Post the WRITE for a request that is in order."""
        asked = Asked(
            *self._life(peer),
            int(packet["seq"]),
            int(packet["token"]),
            int(packet["pdid"]),
            int(packet["va"]),
            int(packet["time"]),
        )
        self._under_way.add(asked[:4])
        request = np.zeros(1, WORK_REQUEST)[0]
        request["op"], request["pdid"], request["length"] = Op.WRITE, asked.pdid, packet["length"]
        request["src"], request["dst"] = packet["va"], packet["operand"]
        self._core.room_for_work(1)

        def over(row: np.ndarray) -> None:
            self._over(asked, row)

        self._source.accept_one(request, self._internal.expect(over, posted=False))
        self._core.ask_turn()

    def _over(self, asked: Asked, words: np.ndarray) -> None:
        """The WRITE has ended."""
        self._under_way.discard(asked[:4])
        if asked[:3] != self._life(asked.peer):
            return  # whoever asked has begun anew: nobody waits for it
        row = words.view(COMPLETION)[0]
        refusal = None
        if row["status"]:
            definite = bool(int(row["flags"]) & CompletionFlags.DEFINITE)
            refusal = Refusal(
                Status(int(row["status"])),
                Side.TARGET,
                int(row["stage"]),
                int(row["level"]),
                int(row["access"]),
                int(row["iova"].view(np.int64)),
                int(row["stream_id"]),
                int(row["context_bank"]),
                int(row["fsr"]),
                int(row["fsynr0"]),
                written=int(row["bytes"]) or (0 if definite else 1),  # in doubt: as if something was
                node=int(row["node"]) + 1,
            )
        self.answer(asked, int(row["done_ps"]), refusal)
