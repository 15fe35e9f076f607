"""A peer that sends ten frames and half of an eleventh, and then is killed: run in a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal

import numpy as np

from support.transports import numbered
from unimem_node.service.transports import shm
from unimem_node.service.transports.door import Offer, connect
from unimem_node.service.transports.hello import RINGS, STREAM, Hello, read_hello, send_hello
from unimem_node.service.transports.ring import Sender


def run(kind: str, port: int, name: str) -> None:
    asyncio.run(_run(kind, Offer((kind,), port, name)))


async def _run(kind: str, offer: Offer) -> None:
    sock = await connect(kind, "127.0.0.1", offer)
    frames = [numbered(0, 1, number).tobytes() for number in range(11)]
    if kind == "shm":
        file, size = shm.make_memory(1 << 20)
        send_hello(sock, Hello("n0", 1, "n1", 1, RINGS, number=1, ring_bytes=size), [file])
        await read_hello(sock)
        memory = memoryview(shm.map_memory(file, size))
        sender = Sender(memory[: len(memory) // 2])
        for frame in frames[:10]:
            sender.put(np.frombuffer(frame, np.uint8))
        if sender.publish():
            sock.send(b"\1")
        sender.put(np.frombuffer(frames[10], np.uint8))  # never published
    else:
        send_hello(sock, Hello("n0", 1, "n1", 1, STREAM, number=1))
        await read_hello(sock)
        data = b"".join(frames)
        sock.send(data[: -len(frames[10]) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
