"""Arrays in global memory: NumPy's basic indexing, translated to gets and puts.

A contiguous selection (`a[17]`, `a[3:9]`, `a[...]`) is one transfer; any other selection by integers, slices,
`...` and `None` is one batch of equally long pieces, at most `MAX_PIECES` of them. Index arrays and masks are
refused: get the rows concerned and index them locally.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple, SupportsIndex

import numpy as np

from unimem._many import PIECE_BYTES
from unimem.errors import OutOfBounds, UsageError
from unimem.pointers import GlobalPtr

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from unimem.async_client import AsyncClient
    from unimem.client import Client

#: Pieces of one strided selection.
MAX_PIECES: Final = 1 << 16


class Selection(NamedTuple):
    """Where the selected elements lie: `starts` byte offsets of runs of `run` bytes each, in C order."""

    shape: tuple[int, ...]
    starts: np.ndarray
    run: int
    flips: tuple[slice, ...]  # axes with a negative step: read forwards, then turned round


def shape_of(shape: SupportsIndex | tuple[SupportsIndex, ...] | list[SupportsIndex]) -> tuple[int, ...]:
    """A shape as a tuple of ints, each at least 1; else `UsageError`."""
    try:
        sizes = tuple(int(s.__index__()) for s in (shape if isinstance(shape, tuple | list) else (shape,)))
    except AttributeError:
        raise UsageError(f"shape {shape!r} is not made of integers", op="array") from None
    if any(s <= 0 for s in sizes):
        raise UsageError(f"shape {sizes}: every size must be at least 1", op="array", reason="BAD_LENGTH")
    return sizes


def dtype_of(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """A dtype whose values are plain bytes; else `UsageError`."""
    try:
        result = np.dtype(dtype)
    except TypeError as error:
        raise UsageError(f"dtype {dtype!r}: {error}", op="array") from None
    if result.hasobject or not result.itemsize:
        raise UsageError(f"dtype {result}: its values are not plain bytes of a fixed size", op="array")
    return result


class BaseArray:
    """Shape, dtype and address; see `GlobalArray` and `AsyncGlobalArray`."""

    def __init__(
        self,
        client: Any,
        ptr: GlobalPtr,
        shape: SupportsIndex | tuple[SupportsIndex, ...] | list[SupportsIndex],
        dtype: npt.DTypeLike,
        *,
        owned: bool = False,
        name: str = "",
    ) -> None:
        self._client = client
        self.shape = shape_of(shape)
        self.dtype = dtype_of(dtype)
        self.size = math.prod(self.shape)
        self.nbytes = self.size * self.dtype.itemsize
        self.name = name
        self._owned = owned
        ptr.check(self.nbytes, "array")
        self._ptr: GlobalPtr | None = ptr

    @property
    def ptr(self) -> GlobalPtr:
        """Pointer to the first element; `UsageError` when the array is freed."""
        if self._ptr is None:
            raise UsageError(f"the array {self.name!r} is freed", op="array", reason="FREED")
        return self._ptr

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def node(self) -> str:
        """Name of the node it lies on."""
        return self.ptr.node

    @property
    def freed(self) -> bool:
        """True when its memory has been given back."""
        return self._ptr is None

    def ptr_to(self, *index: SupportsIndex) -> GlobalPtr:
        """Pointer to one element, or to the first of a row when there are fewer indices than axes."""
        where = self._select(tuple(index))
        return self.ptr + int(where.starts[0])

    def _select(self, key: Any) -> Selection:
        """Translate a basic index. NumPy itself does it, on an array that has strides but no memory."""
        keys = key if isinstance(key, tuple) else (key,)
        for k in keys:
            if isinstance(k, bool | np.bool_ | list | np.ndarray) or not (
                k is None or k is Ellipsis or isinstance(k, slice) or hasattr(k, "__index__")
            ):
                raise UsageError(
                    f"index {k!r}: only integers, slices, ... and None select in global memory",
                    op="array",
                    hint="get the rows concerned and index the ndarray",
                )
        item = self.dtype.itemsize
        strides = [item * math.prod(self.shape[i + 1 :]) for i in range(len(self.shape))]
        nowhere = np.lib.stride_tricks.as_strided(
            np.empty(1, self.dtype), self.shape, strides, writeable=False
        )
        try:  # with `...` the result is always a view, so that no element is ever read
            view = nowhere[keys if Ellipsis in keys else (*keys, ...)]
        except IndexError as error:
            raise OutOfBounds(str(error), op="array", gva=self.ptr.gva, node=self.ptr.node) from None
        if not view.size:
            return Selection(view.shape, np.empty(0, np.int64), 0, ())
        flips = tuple(slice(None, None, -1 if step < 0 else 1) for step in view.strides)
        forwards: tuple[Any, ...] = (*flips, ...)
        view = view[forwards]
        start = view.__array_interface__["data"][0] - nowhere.__array_interface__["data"][0]
        # The longest tail of axes that lies in one piece, then one run for each index of the axes before it.
        axes = [(n, step) for n, step in zip(view.shape, view.strides, strict=True) if n > 1]
        run = item
        while axes and axes[-1][1] == run:
            run *= axes.pop()[0]
        pieces = math.prod(n for n, _ in axes)
        if pieces > MAX_PIECES:
            raise UsageError(
                f"the selection has {pieces} pieces of {run} bytes; at most {MAX_PIECES} are moved at once",
                op="array",
                gva=self.ptr.gva,
                hint="get a contiguous slice and index the ndarray",
            )
        starts = np.array([start], np.int64)
        for n, step in axes:
            starts = (starts[:, None] + np.arange(n, dtype=np.int64) * step).reshape(-1)
        return Selection(view.shape, starts, run, flips)

    def _addresses(self, where: Selection) -> np.ndarray:
        return where.starts.astype(np.uint64) + np.uint64(self.ptr.gva)

    def _values(self, where: Selection, value: Any) -> np.ndarray:
        """`value` broadcast to the selection, in the order in which its runs lie in memory."""
        try:
            array = np.broadcast_to(np.asarray(value, self.dtype), where.shape)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"a value of shape {np.shape(value)} into {where.shape}: {error}", op="array"
            ) from None
        forwards: tuple[Any, ...] = (*where.flips, ...)  # `...`: a view, also of a single element
        return np.ascontiguousarray(array[forwards])

    def _rows(self, where: Selection, data: np.ndarray) -> np.ndarray:
        """`data`, contiguous, as one row of bytes for each run."""
        return data.reshape(-1).view(np.uint8).reshape(len(where.starts), where.run)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("an array without axes has no length")
        return self.shape[0]

    def __repr__(self) -> str:
        where = "freed" if self._ptr is None else repr(self._ptr)
        return f"{type(self).__name__}({self.shape}, {self.dtype.str!r}, {where})"


class GlobalArray(BaseArray):
    """An array in global memory, made by `Client.array`; freed by `free`, `with`, or when its client closes.

    `frames[17]` gets one row as an ndarray, `frames[17] = 0` puts it, `frames[:, 3]` is one batch of gets.
    """

    _client: Client

    def read(self, key: Any = ..., *, timeout: float | None = None) -> np.ndarray:
        """The selected elements as a new ndarray (0-d for a single element)."""
        where = self._select(key)
        result = np.empty(where.shape, self.dtype)
        if len(where.starts) == 1:
            self._client.get(self.ptr + int(where.starts[0]), out=result, timeout=timeout)
        elif where.run > PIECE_BYTES:
            with self._client.batch(timeout=timeout) as batch:
                for start, row in zip(where.starts.tolist(), self._rows(where, result), strict=True):
                    batch.get(self.ptr + start, out=row)
        elif len(where.starts):
            rows = self._client.get_many(self._addresses(where), where.run, timeout=timeout)
            result = rows.reshape(-1).view(self.dtype).reshape(where.shape)
        return result[where.flips] if where.flips else result

    def write(self, key: Any, value: Any, *, timeout: float | None = None) -> None:
        """Put `value`, broadcast to the selection; returns when all of it is delivered."""
        where = self._select(key)
        data = self._values(where, value)
        if len(where.starts) == 1:
            self._client.put(self.ptr + int(where.starts[0]), data, timeout=timeout)
        elif where.run > PIECE_BYTES:
            with self._client.batch(timeout=timeout) as batch:
                for start, row in zip(where.starts.tolist(), self._rows(where, data), strict=True):
                    batch.put(self.ptr + start, row)
        elif len(where.starts):
            rows = self._rows(where, data)
            self._client.put_many(self._addresses(where), rows, timeout=timeout)

    def __getitem__(self, key: Any) -> Any:
        found = self.read(key)
        return found if found.ndim else found[()]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.write(key, value)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("an array in global memory cannot become an ndarray without a copy")
        return self.read().astype(dtype or self.dtype, copy=False)

    def free(self) -> None:
        """Give the memory back. Idempotent; an array that only looks at memory (`array_at`) forgets it."""
        if self._ptr is not None:
            ptr, self._ptr = self._ptr, None
            self._client._arrays.discard(self)
            if self._owned:
                self._client.free(ptr)

    def __enter__(self) -> GlobalArray:
        return self

    def __exit__(self, *exc: object) -> None:
        self.free()


class AsyncGlobalArray(BaseArray):
    """The same for `AsyncClient`: `await a.read(key)`, `await a.write(key, value)`, `await a.free()`."""

    _client: AsyncClient

    async def read(self, key: Any = ..., *, timeout: float | None = None) -> np.ndarray:  # noqa: ASYNC109
        """As `GlobalArray.read`."""
        where = self._select(key)
        result = np.empty(where.shape, self.dtype)
        if len(where.starts) == 1:
            await self._client.get(self.ptr + int(where.starts[0]), out=result, timeout=timeout)
        elif where.run > PIECE_BYTES:
            async with self._client.batch(timeout=timeout) as batch:
                for start, row in zip(where.starts.tolist(), self._rows(where, result), strict=True):
                    batch.get(self.ptr + start, out=row)
        elif len(where.starts):
            rows = await self._client.get_many(self._addresses(where), where.run, timeout=timeout)
            result = rows.reshape(-1).view(self.dtype).reshape(where.shape)
        return result[where.flips] if where.flips else result

    async def write(self, key: Any, value: Any, *, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """As `GlobalArray.write`."""
        where = self._select(key)
        data = self._values(where, value)
        if len(where.starts) == 1:
            await self._client.put(self.ptr + int(where.starts[0]), data, timeout=timeout)
        elif where.run > PIECE_BYTES:
            async with self._client.batch(timeout=timeout) as batch:
                for start, row in zip(where.starts.tolist(), self._rows(where, data), strict=True):
                    batch.put(self.ptr + start, row)
        elif len(where.starts):
            rows = self._rows(where, data)
            await self._client.put_many(self._addresses(where), rows, timeout=timeout)

    async def free(self) -> None:
        """As `GlobalArray.free`."""
        if self._ptr is not None:
            ptr, self._ptr = self._ptr, None
            self._client._arrays.discard(self)
            if self._owned:
                await self._client.free(ptr)

    async def __aenter__(self) -> AsyncGlobalArray:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.free()
