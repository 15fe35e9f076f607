"""The yardstick of the `grpc` transport: a bare grpc.aio stream of raw bytes between two processes.

Nothing but the stream: no frames, no checks, no memory model. `python -m unimem_lab.bench.bare` is the far
end. What it does follows from the stream's metadata:

=========  ===========================================================================
``echo``   8 bytes come, 8 bytes go back
``put``    chunks come; after each `size` bytes, 8 bytes go back
``get``    8 bytes come, `size` bytes go back in chunks
=========  ===========================================================================
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

#: Chunk of a large transfer: the size that serves gRPC in Python best, and what our frames use.
CHUNK = 256 * 1024

METHOD = "/unimem.bench.Bare/Stream"
OPTIONS = [("grpc.max_receive_message_length", 8 << 20), ("grpc.max_send_message_length", 8 << 20)]


async def _serve_stream(requests: AsyncIterator[bytes], context: Any) -> None:
    metadata = dict(context.invocation_metadata())
    mode, size = metadata["mode"], int(metadata["size"])
    if mode == "echo":
        async for message in requests:
            await context.write(message)
    elif mode == "put":
        arrived = 0
        async for message in requests:
            arrived += len(message)
            if arrived >= size:
                arrived -= size
                await context.write(bytes(8))
    else:
        chunk = bytes(min(size, CHUNK))
        async for _ in requests:
            for at in range(0, size, CHUNK):
                await context.write(chunk if size - at >= CHUNK else chunk[: size - at])


class _Handler(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    def service(self, details: Any) -> Any:
        return grpc.stream_stream_rpc_method_handler(_serve_stream) if details.method == METHOD else None


async def serve() -> None:
    """Serve on any port, print it, stop when stdin closes."""
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((_Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)  # noqa: T201 - how the parent learns it
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(0)


class BareStream:
    """The near end: one stream in one mode. Use as an async context manager."""

    def __init__(self, port: int, mode: str, size: int = 8) -> None:
        self._port, self._mode, self._size = port, mode, size

    async def __aenter__(self) -> BareStream:
        channel: Any = grpc.aio.insecure_channel(f"127.0.0.1:{self._port}", options=OPTIONS)
        self._channel = channel
        call = channel.stream_stream(METHOD)
        self._stream: Any = call(metadata=(("mode", self._mode), ("size", str(self._size))))
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._stream.cancel()
        await self._channel.close()

    async def ping(self) -> None:
        """8 bytes there and back."""
        await self._stream.write(b"12345678")
        await self._stream.read()

    async def put(self, data: bytes) -> None:
        """`size` bytes there, 8 bytes back."""
        for at in range(0, self._size, CHUNK):
            await self._stream.write(data[at : at + CHUNK] if self._size > CHUNK else data)
        await self._stream.read()

    async def get(self) -> int:
        """8 bytes there, `size` bytes back."""
        await self._stream.write(b"12345678")
        arrived = 0
        while arrived < self._size:
            arrived += len(await self._stream.read())
        return arrived

    async def rate(self, count: int, outstanding: int = 64) -> float:
        """Messages a second with `outstanding` under way."""
        credit = asyncio.Semaphore(outstanding)

        async def receive() -> None:
            for _ in range(count):
                await self._stream.read()
                credit.release()

        started = time.perf_counter()
        receiver = asyncio.create_task(receive())
        for _ in range(count):
            await credit.acquire()
            await self._stream.write(b"12345678")
        await receiver
        return count / (time.perf_counter() - started)


async def timed(once: Callable[[], Any], repeat: int) -> list[float]:
    """Seconds of each of `repeat` runs of an async function."""
    seconds = []
    for _ in range(repeat):
        started = time.perf_counter()
        await once()
        seconds.append(time.perf_counter() - started)
    return seconds


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve())
