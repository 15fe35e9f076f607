"""One argument instead of eighteen: a node's tables, passed to compiled code as a list of addresses.

Numba takes an array argument apart on each call, for 60 to 100 ns; with the `Arrays` of the chip and the
`State` of the interface that is more than all the work on a small packet. So what is passed is a *handle*:
one int64 array with address and shape of each table, from which compiled code makes the arrays again, for
nothing. Whoever makes a handle keeps the tables alive, and makes a new one when a table is replaced (`Core`).

With ``NUMBA_DISABLE_JIT=1`` a handle is the tables themselves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.core import types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from unimem_node._jit import COMPILED, njit
from unimem_node.smmu.arrays import Arrays

from .state import State

ROW = 3  # address, length, columns (0: one dimension)

if COMPILED:

    def make_handle(arrays: Arrays, state: State) -> Any:
        """The handle of these tables; they must all be contiguous, and stay where they are."""
        rows = []
        for table in (*arrays, *state):
            assert table.flags.c_contiguous
            rows.append((table.ctypes.data, table.shape[0], table.shape[1] if table.ndim == 2 else 0))
        return np.array(rows, np.int64).reshape(-1)

    def _view(dtype: Any, ndim: int) -> Any:
        """An instruction: the array that row `row` of the handle describes."""
        result = types.Array(dtype, ndim, "C")

        @intrinsic
        def view(typingctx: Any, handle: Any, row: Any) -> Any:
            def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
                base = context.make_array(signature.args[0])(context, builder, args[0]).data
                first = builder.mul(args[1], context.get_constant(types.intp, ROW))
                words = [
                    builder.load(builder.gep(base, [builder.add(first, context.get_constant(types.intp, i))]))
                    for i in range(1 + ndim)
                ]
                array = context.make_array(result)(context, builder)
                size = dtype.bitwidth // 8
                strides = [context.get_constant(types.intp, size)]
                if ndim == 2:
                    strides.insert(0, builder.mul(words[2], strides[0]))
                populate_array(
                    array,
                    data=builder.inttoptr(words[0], array.data.type),
                    shape=words[1:],
                    strides=strides,
                    itemsize=context.get_constant(types.intp, size),
                    meminfo=None,
                )
                return array._getvalue()

            return result(handle, types.intp), codegen

        return view

    _bytes, _words = _view(types.uint8, 1), _view(types.uint64, 1)
    _line, _table = _view(types.int64, 1), _view(types.int64, 2)

    @njit
    def open_arrays(handle: Any) -> Any:
        """The chip's `Arrays`."""
        return Arrays(
            _bytes(handle, 0),
            _words(handle, 1),
            _table(handle, 2),
            _table(handle, 3),
            _line(handle, 4),
            _table(handle, 5),
            _line(handle, 6),
            _table(handle, 7),
        )

    @njit
    def open_state(handle: Any) -> Any:
        """The interface's `State`."""
        return State(
            _line(handle, 8),
            _table(handle, 9),
            _table(handle, 10),
            _table(handle, 11),
            _table(handle, 12),
            _table(handle, 13),
            _table(handle, 14),
            _table(handle, 15),
            _table(handle, 16),
            _table(handle, 17),
            _table(handle, 18),
            _table(handle, 19),
            _table(handle, 20),
            _line(handle, 21),
        )

else:

    def make_handle(arrays: Arrays, state: State) -> Any:
        """The tables."""
        return arrays, state

    def open_arrays(handle: Any) -> Any:
        """The chip's `Arrays`."""
        return handle[0]

    def open_state(handle: Any) -> Any:
        """The interface's `State`."""
        return handle[1]
