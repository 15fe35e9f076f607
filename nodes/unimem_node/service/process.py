"""The life of a node process: memory allocator, event loop, signals, exit codes."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog

from unimem_node.service.config import NodeSettings
from unimem_node.service.membership import JoinError
from unimem_node.service.server import NodeServer, StartError

log = structlog.get_logger(__name__)

#: Exit codes: 0 stopped by a signal, from 3 on could not run (1 and 2 are a check's answers).
EXIT_CANNOT_LISTEN: Final = 3
EXIT_CANNOT_JOIN: Final = 4
EXIT_ENDED: Final = 5

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MMAP_THRESHOLD = 32 << 20  # the most that glibc takes on 64 bits
_TRIM_THRESHOLD = 256 << 20


def raise_malloc_thresholds() -> bool:
    """Keep freed message buffers in the heap; returns whether the C library could be told.

    glibc serves blocks from 128 KiB on by mmap and gives them back by munmap: every large message is then
    paid for with page faults, about half of a gRPC stream's bandwidth.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library: nothing to tell
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD) and mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD))


def give_back_what_starting_took() -> None:
    """Return the heap of imports and of loading compiled code: an idle node should cost little.

    With the thresholds above nothing would go back by itself. Once, before there is work.
    """
    gc.collect()
    gc.freeze()  # what is alive now lives as long as the process: no later collection looks at it
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def configure_logging(level: str, as_json: bool) -> None:
    """structlog to stderr, one line an event; the standard library's logging goes the same way."""
    number = logging.getLevelNamesMapping()[level.upper()]
    timestamper = structlog.processors.TimeStamper(fmt="iso", utc=True)
    renderer = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.processors.LogfmtRenderer(
            key_order=["timestamp", "level", "event"], bool_as_flag=False
        )
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            timestamper,
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(
        stream=sys.stderr,
        level=number,
        format="timestamp=%(asctime)s level=%(levelname)s event=%(message)r logger=%(name)s",
    )
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def run_node(settings: NodeSettings, on_listening: Callable[[str], None] | None = None) -> int:
    """Run one node until SIGTERM or SIGINT; returns the exit code.

    `on_listening` gets the node's address (host:port) once it has joined and serves.
    """
    raise_malloc_thresholds()
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # a peer that goes away is told by our own log
    configure_logging(settings.log_level, settings.log_json)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_live(settings, on_listening))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _live(settings: NodeSettings, on_listening: Callable[[str], None] | None) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    while True:
        server = NodeServer(settings)
        start = asyncio.create_task(server.start())
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait((start, stop), return_when=asyncio.FIRST_COMPLETED)
        if not start.done():
            start.cancel()
            with suppress(asyncio.CancelledError):
                await start
            return 0
        try:
            start.result()
        except StartError as error:
            log.error(str(error))
            return EXIT_CANNOT_LISTEN
        except JoinError as error:
            log.error(str(error))
            return EXIT_CANNOT_JOIN
        give_back_what_starting_took()
        if on_listening is not None:
            on_listening(server.address)
            on_listening = None
        await asyncio.wait((server.ended, stop), return_when=asyncio.FIRST_COMPLETED)
        if stopping.is_set():
            log.info("stopping")
            await server.stop()
            return 0
        stop.cancel()
        why, again = server.ended.result()
        log.error("this node's life is over", why=why, starting_again=again)
        port = server.port
        await server.stop()
        if not again:
            return EXIT_ENDED
        settings = settings.model_copy(update={"listen": f"{settings.listen.rpartition(':')[0]}:{port}"})
