"""WRITE with SIGNAL at its source: one request of a poster, two on the wire.

The data is a WRITE like any other, the signal a SWAP of the 64-bit word, ordered behind it and marked SIGNAL.
The marked packet says with which `seq` its data begins (in `compare`): a target that has refused any request
since then refuses the signal, too. At the source, data that has failed takes its signal with it in the same
step, before anything else is sent: the two leave the window together, so that no copy of the signal that is
still on the way can find its data forgotten (tests/model has both mistakes).

The poster hears of one request: of the data if that fails, else of the signal, with the data's bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from unimem.wire import WORK_REQUEST, Op, Status, WorkFlags

from . import _fast_columns as col
from .core import Core
from .internal import Internal

if TYPE_CHECKING:
    from .source import Source

_SIGNAL = int(WorkFlags.SIGNAL)
_WORD = 8  # bytes


class _Pair:
    """A write and its signal under way: their completions (rows of `done`) so far."""

    def __init__(self) -> None:
        self._data: np.ndarray | None = None
        self._signal: np.ndarray | None = None
        self._failed = False

    def data_over(self, row: np.ndarray) -> np.ndarray | None:
        """The data has ended."""
        if row[1] & 0xFFFF:
            self._failed = True
            return row
        self._data = row
        return self._both()

    def signal_over(self, row: np.ndarray) -> np.ndarray | None:
        """The signal has ended."""
        self._signal = row
        return self._both()

    def _both(self) -> np.ndarray | None:
        data, signal = self._data, self._signal
        if self._failed or data is None or signal is None:
            return None
        shown = signal.copy()
        shown[1] = signal[1] & ~(0xFF << 24 | col.FLAG_DEFINITE << 32) | int(Op.WRITE) << 24
        shown[2], shown[3] = data[2], 0  # bytes; what the word was before is nobody's business
        if data[9] > signal[9] and not signal[1] & 0xFFFF:
            shown[8:19] = data[8:19]  # the times of the one that was answered last
        return shown


class Signals:
    """Splits signalling writes in two."""

    def __init__(self, core: Core, source: Source, internal: Internal) -> None:
        self._core, self._source, self._internal = core, source, internal

    def accept(self, wr: np.void) -> None:
        """Post a WRITE with SIGNAL that has just been rung for."""
        source, internal = self._source, self._internal
        pair = _Pair()
        data = wr.copy()
        data["flags"] &= ~np.uint8(_SIGNAL | WorkFlags.ACCEPTED)  # a signal says that the data is there
        data["operand"] = data["compare"] = 0
        self._core.room_for_work(3)
        origin = internal.expect(pair.data_over, posted=True)
        row = source.accept_one(data, origin, self.refused_at_the_door(wr))
        if row < 0:
            return  # it has ended already
        signal = np.zeros(1, WORK_REQUEST)[0]
        signal["op"], signal["length"], signal["flags"] = Op.SWAP, _WORD, WorkFlags.ORDERED | _SIGNAL
        for name in ("wr_id", "pdid", "operand", "deadline_us"):
            signal[name] = wr[name]
        signal["dst"] = wr["compare"]
        self._core.state.work[row, col.W_SIGNAL] = 1 + source.accept_one(
            signal, internal.expect(pair.signal_over, posted=True)
        )

    def refused_at_the_door(self, wr: np.void) -> Status:
        """What is wrong with a signal: the write is refused for it."""
        word, data = int(wr["compare"]), int(wr["dst"])
        if wr["op"] != Op.WRITE or not self._source.same_window(word, _WORD, data):
            return Status.MALFORMED
        return Status.MISALIGNED if word % _WORD else Status.OK
