"""Seeded randomness: every consumer draws from its own named stream, so that none disturbs another."""

from __future__ import annotations

import hashlib
import random


def named_stream(seed: int, name: str) -> random.Random:
    """Return the stream of random numbers that belongs to `name` in a run with `seed`.

    The same pair gives the same numbers on every machine (Mersenne Twister seeded by SHA-256).
    """
    digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    return random.Random(int.from_bytes(digest, "little"))
