"""The event loop of a simulated network, compiled: frames arrive, are examined, and answers go on their way.

`MemoryFabric` is the readable loop. This one does the same in the same order, a few hundred nanoseconds a
frame, and returns to it at what is unusual: at a stop of `receive` or `cut` other than the common one, at a
timer, at a node that is not to be run compiled, at completions somebody waits for, and at the time of the
scheduler's next event. Events are a binary heap by (time, number); the numbers are the scheduler's, so events
at one time happen in the order in which they were made, here and there. Timers come after all of them.

The tables are int64, and passed as one handle (`_fast_handle`); `Arena` owns them. Small frames live in
blocks of four sizes, whose first word links those that are free; larger ones are Python's arrays.
"""

from __future__ import annotations

from typing import Any

from numba.core import types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from unimem_node._jit import COMPILED, copy_bytes, njit, njit_inline, store64

from . import _fast_columns as col
from . import _fast_handle
from ._fast_cut import cut
from ._fast_frame import get64
from ._fast_handle import open_state
from ._fast_receive import receive

# ---- `scalars` -----------------------------------------------------------------------------------
X_NOW = 0  # the scheduler's clock
X_NUMBER = 1  # ... and its last event number
X_LIMIT_TIME = 2  # nothing due at (X_LIMIT_TIME, X_LIMIT_NUMBER) or later is run
X_LIMIT_NUMBER = 3
X_COUNT = 4  # events in the heap
X_RAN = 5  # events that were run, ever
X_PLAIN = 6  # 1: frames arrive as they are sent; 0: Python decides about each
X_FREE = 7  # free rows of `frames`, -1 at the end
X_RELEASED = 8  # rows of frames that are Python's, done with
X_BLOCKS = 9  # free blocks of the four sizes, 0 at the end
# what a stop is about
X_PORT = 13
X_FRAME = 14
X_SIZE = 15
X_PEER = 16
X_DUE = 17
SCALARS = 24

# ---- `ports`: one row a node that was ever attached ----------------------------------------------
Q_INDEX = 0
Q_LIFE = 1
Q_HANDLE = 2  # address and words of its tables' handle
Q_HANDLE_WORDS = 3
Q_SCRATCH = 4  # address and bytes of its scratch buffer
Q_SCRATCH_BYTES = 5
Q_WATCHED = 6  # 1: somebody waits for its completions
Q_ARMED = 7  # when its timer is in the heap; NEVER
PORT_COLS = 8

DEAD = 0
DIRECT = 1  # compiled code may run it
PYTHON = 2

# ---- `heap` and `frames` ------------------------------------------------------------------------------
E_TIME = 0
E_NUMBER = 1
E_FRAME = 2
EVENT_COLS = 3

F_ADDRESS = 0
F_SIZE = 1
F_SRC = 2  # rows of `ports`
F_DST = 3
F_KIND = 4  # size of its block (0 to 3), or PYTHONS
F_NEXT = 5
FRAME_COLS = 6

PYTHONS = -1

#: Numbers of timers: after every event of their time, by row of `ports`.
TIMERS = 1 << 62
NEVER = (1 << 63) - 1

#: Bytes of a block of kind k: SMALLEST << 2 * k.
SMALLEST = 256
KINDS = 4

STOP_LIMIT = 0
STOP_FRAME = 1  # X_FRAME arrived, nothing is done about it
STOP_RECEIVE = 2  # `receive` stopped at X_FRAME with X_SIZE bytes of reply
STOP_CUT = 3  # `cut` stopped
STOP_SEND = 4  # X_SIZE bytes in the scratch buffer of X_PORT are a frame for its peer X_PEER
STOP_TIMER = 5  # that of X_PORT is due
STOP_COMPLETION = 6  # X_PORT has some
STOP_ROOM = 7  # the heap is full
STOP_WAKE = 8  # the interface of X_PORT wants to be pumped

if COMPILED:

    def _at(result: Any) -> Any:
        """An instruction: the array of `n` items at an address."""
        size = result.dtype.bitwidth // 8

        @intrinsic
        def at(typingctx: Any, address: Any, n: Any) -> Any:
            def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
                array = context.make_array(result)(context, builder)
                item = context.get_constant(types.intp, size)
                populate_array(
                    array,
                    data=builder.inttoptr(args[0], array.data.type),
                    shape=[args[1]],
                    strides=[item],
                    itemsize=item,
                    meminfo=None,
                )
                return array._getvalue()

            return result(types.int64, types.int64), codegen

        return at

    words_at = _at(types.Array(types.int64, 1, "C"))
    bytes_at = _at(types.Array(types.uint8, 1, "C"))
    #: The type of a frame that was received: `receive` is compiled for no other.
    frozen_at = _at(types.Array(types.uint8, 1, "C", readonly=True))
    _line, _table, _bytes = _fast_handle._line, _fast_handle._table, _fast_handle._bytes

    @njit_inline
    def sift_down(heap: Any, count: int) -> None:
        """Put the root, whose event has changed, where it belongs."""
        time = heap[0, E_TIME]
        number = heap[0, E_NUMBER]
        frame = heap[0, E_FRAME]
        at = 0
        while True:
            child = 2 * at + 1
            if child >= count:
                break
            if child + 1 < count and (
                heap[child + 1, E_TIME] < heap[child, E_TIME]
                or (
                    heap[child + 1, E_TIME] == heap[child, E_TIME]
                    and heap[child + 1, E_NUMBER] < heap[child, E_NUMBER]
                )
            ):
                child += 1
            if time < heap[child, E_TIME] or (time == heap[child, E_TIME] and number < heap[child, E_NUMBER]):
                break
            for i in range(EVENT_COLS):
                heap[at, i] = heap[child, i]
            at = child
        heap[at, E_TIME] = time
        heap[at, E_NUMBER] = number
        heap[at, E_FRAME] = frame

    @njit_inline
    def push(x: Any, heap: Any, time: int, number: int, frame: int) -> None:
        """Add an event; the caller has made sure that there is room."""
        at = x[X_COUNT]
        x[X_COUNT] = at + 1
        while at > 0:
            parent = (at - 1) >> 1
            if heap[parent, E_TIME] < time or (
                heap[parent, E_TIME] == time and heap[parent, E_NUMBER] < number
            ):
                break
            for i in range(EVENT_COLS):
                heap[at, i] = heap[parent, i]
            at = parent
        heap[at, E_TIME] = time
        heap[at, E_NUMBER] = number
        heap[at, E_FRAME] = frame

    @njit_inline
    def pop(x: Any, heap: Any) -> None:
        """Take the first event off."""
        last = x[X_COUNT] - 1
        x[X_COUNT] = last
        for i in range(EVENT_COLS):
            heap[0, i] = heap[last, i]
        sift_down(heap, last)

    @njit_inline
    def give(x: Any, frames: Any, frame: int) -> None:
        """A frame is done with."""
        kind = frames[frame, F_KIND]
        if kind == PYTHONS:
            frames[frame, F_NEXT] = x[X_RELEASED]
            x[X_RELEASED] = frame
            return
        address = frames[frame, F_ADDRESS]
        store64(bytes_at(address, 8), 0, x[X_BLOCKS + kind])
        x[X_BLOCKS + kind] = address
        frames[frame, F_NEXT] = x[X_FREE]
        x[X_FREE] = frame

    @njit_inline
    def wanted(node: Any) -> Any:
        """When an interface's timer is wanted, or NEVER: `Retransmit.due_ps`."""
        if node[col.N_WORK_LIVE] == 0:
            return NEVER
        due = min(min(node[col.N_TIMER], node[col.N_PACED]), min(node[col.N_DEADLINE], node[col.N_ALARM]))
        return NEVER if due == col.NEVER else due

    @njit
    def forward(net: Any, handle: Any, port: int, peer: int, scratch: Any, size: int) -> Any:
        """Put a frame that was just made on its way to `peer`; False when Python has to."""
        s = open_state(handle)
        x, ports, heap, frames = _line(net, 0), _table(net, 1), _table(net, 2), _table(net, 3)
        places, spoken = _line(net, 4), _bytes(net, 6)
        index = s.peers[peer, col.P_INDEX]
        if x[X_PLAIN] == 0 or index == s.node[col.N_INDEX] or index >= places.shape[0]:
            return False
        to = places[index] - 1
        if to < 0 or ports[to, Q_LIFE] == DEAD:
            return False
        kind = 0
        while kind < KINDS and SMALLEST << 2 * kind < size:
            kind += 1
        frame = x[X_FREE]
        if kind == KINDS or frame < 0 or x[X_BLOCKS + kind] == 0 or x[X_COUNT] + 2 > heap.shape[0]:
            return False
        x[X_FREE] = frames[frame, F_NEXT]
        address = x[X_BLOCKS + kind]
        block = bytes_at(address, size)
        x[X_BLOCKS + kind] = get64(block, 0)
        copy_bytes(block, 0, scratch, 0, size)
        frames[frame, F_ADDRESS] = address
        frames[frame, F_SIZE] = size
        frames[frame, F_SRC] = port
        frames[frame, F_DST] = to
        frames[frame, F_KIND] = kind
        spoken[port * ports.shape[0] + to] = 1
        x[X_NUMBER] += 1
        push(x, heap, max(get64(scratch, col.H_TIME), x[X_NOW]), x[X_NUMBER], frame)
        s.node[col.N_HANDED] = s.node[col.N_FRAMES]
        return True

    @njit
    def turn(net: Any, port: int) -> Any:
        """Cut what may leave from a node now; returns why that is not the end, else STOP_LIMIT."""
        x, ports = _line(net, 0), _table(net, 1)
        handle = words_at(ports[port, Q_HANDLE], ports[port, Q_HANDLE_WORDS])
        scratch = bytes_at(ports[port, Q_SCRATCH], ports[port, Q_SCRATCH_BYTES])
        s = open_state(handle)
        node, cursor = s.node, s.cursor
        x[X_PORT] = port
        while node[col.N_READY_HEAD] >= 0:
            size = cut(handle, scratch)
            if cursor[col.C_STOP] == col.STOP_IDLE:
                continue
            x[X_SIZE] = size
            if cursor[col.C_STOP] != col.STOP_DONE:
                return STOP_CUT
            if size > 0 and not forward(net, handle, port, cursor[col.C_PEER], scratch, size):
                x[X_PEER] = cursor[col.C_PEER]
                return STOP_SEND
        return STOP_LIMIT

    @njit
    def arm(net: Any, port: int, due: int) -> None:
        """Note when a node's timer is wanted (NEVER: not at all)."""
        x, ports, heap = _line(net, 0), _table(net, 1), _table(net, 2)
        if due < ports[port, Q_ARMED]:
            ports[port, Q_ARMED] = due
            push(x, heap, due, TIMERS + port, -1)

    @njit
    def put(net: Any, time: int, src: int, dst: int, address: int, size: int) -> Any:
        """Add a frame that is Python's; returns its row, -1 when there is no room."""
        x, heap, frames = _line(net, 0), _table(net, 2), _table(net, 3)
        frame = x[X_FREE]
        if frame < 0 or x[X_COUNT] + 2 > heap.shape[0]:
            return -1
        x[X_FREE] = frames[frame, F_NEXT]
        frames[frame, F_ADDRESS] = address
        frames[frame, F_SIZE] = size
        frames[frame, F_SRC] = src
        frames[frame, F_DST] = dst
        frames[frame, F_KIND] = PYTHONS
        x[X_NUMBER] += 1
        push(x, heap, time, x[X_NUMBER], frame)
        return frame

    @njit
    def done_with(net: Any, frame: int) -> None:
        """Python has examined a frame."""
        give(_line(net, 0), _table(net, 3), frame)

    @njit
    def run(net: Any) -> Any:
        """Run events up to the limit; returns why it stopped."""
        x, ports, heap, frames = _line(net, 0), _table(net, 1), _table(net, 2), _table(net, 3)
        rows = _table(net, 5)
        while x[X_COUNT] > 0:
            time = heap[0, E_TIME]
            number = heap[0, E_NUMBER]
            if time > x[X_LIMIT_TIME] or (time == x[X_LIMIT_TIME] and number >= x[X_LIMIT_NUMBER]):
                return STOP_LIMIT
            if x[X_COUNT] + 2 > heap.shape[0]:
                return STOP_ROOM
            frame = heap[0, E_FRAME]
            pop(x, heap)
            if number >= TIMERS:
                port = number - TIMERS
                if time != ports[port, Q_ARMED]:
                    continue  # it was wanted earlier meanwhile
                ports[port, Q_ARMED] = NEVER
                if ports[port, Q_LIFE] == DIRECT:
                    handle = words_at(ports[port, Q_HANDLE], ports[port, Q_HANDLE_WORDS])
                    due = wanted(open_state(handle).node)
                    if due > time:
                        if due < NEVER:
                            arm(net, port, max(due, x[X_NOW]))
                        continue
                x[X_PORT] = port
                x[X_DUE] = time
                return STOP_TIMER
            x[X_NOW] = max(x[X_NOW], time)
            x[X_RAN] += 1
            port = frames[frame, F_DST]
            x[X_PORT] = port
            x[X_FRAME] = frame
            if ports[port, Q_LIFE] == DEAD:
                give(x, frames, frame)
                continue
            peer = rows[port, frames[frame, F_SRC]] - 1
            if ports[port, Q_LIFE] != DIRECT or peer < 0:
                return STOP_FRAME
            handle = words_at(ports[port, Q_HANDLE], ports[port, Q_HANDLE_WORDS])
            scratch = bytes_at(ports[port, Q_SCRATCH], ports[port, Q_SCRATCH_BYTES])
            s = open_state(handle)
            node = s.node
            node[col.N_CLOCK] = max(node[col.N_CLOCK], x[X_NOW])
            node[col.N_NOW] = max(node[col.N_NOW], x[X_NOW])
            size = receive(handle, peer, frozen_at(frames[frame, F_ADDRESS], frames[frame, F_SIZE]), scratch)
            if s.cursor[col.C_STOP] != col.STOP_DONE:
                x[X_SIZE] = size
                return STOP_RECEIVE
            give(x, frames, frame)
            if size > 0 and not forward(net, handle, port, peer, scratch, size):
                x[X_SIZE] = size
                x[X_PEER] = peer
                return STOP_SEND
            if node[col.N_READY_HEAD] >= 0:
                stop = turn(net, port)
                if stop != STOP_LIMIT:
                    return stop
            due = wanted(node)
            if due < ports[port, Q_ARMED]:
                arm(net, port, max(due, x[X_NOW]))
            if node[col.N_WAKES] != 0:
                return STOP_WAKE
            if ports[port, Q_WATCHED] != 0 and node[col.N_DONE] > 0:
                return STOP_COMPLETION
        return STOP_LIMIT
