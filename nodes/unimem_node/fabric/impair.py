"""The language of impairments: one line that says what a network does to packets.

    loss=0.05,duplicate=0.02,seed=7                  everywhere
    n0->n1: loss=0.5,op=ACK; n*->n2: delay=40us      by link; the first also by kind of packet
    n3<->*: partition,at=2ms,for=500us               nothing from or to n3 for half a millisecond

Groups are separated by semicolons. A group is a list of items, before it the links it is about: names, or
patterns with ``*``, ``?`` and ``[]``. ``->`` is one direction, ``<->`` both; no link means all of them.

=====================================  ================================================================
``loss=P``                             the packet is gone
``duplicate=P``                        a second copy comes up to ``gap`` later
``reorder=P``                          it comes up to ``gap`` later, after others
``corrupt=P``                          one bit of it, header or payload, is turned over
``delay=T`` or ``delay=T@P``           it comes later by T
``jitter=T`` or ``jitter=T@P``         it comes later by up to T
``hold``                               it waits for the end of the time window
``bandwidth=R``                        the link carries R (``100Mbps``); what comes faster queues
``partition``, ``partition_oneway``    nothing passes; the first in both directions
``after=T``, ``for=T``, ``at=T``       time window of the group, virtual; ``at`` is ``after``
``max_count=N``                        each of the group's impairments happens to N packets at most
``op=NAME`` or ``op=NAME|NAME``        only to packets of these kinds (`PacketOp`)
``gap=T``                              see above; 100 us
``seed=N``                             of the whole text; else that of whoever reads it
=====================================  ================================================================

Times are numbers with ``ps``, ``ns``, ``us``, ``ms`` or ``s``; probabilities numbers from 0 to 1, 0 = never.
"""

from __future__ import annotations

import re
from typing import Final

from .impair_rules import CERTAIN, KINDS, Impair, Rule
from .packets import PacketOp

__all__ = ["Impair", "Rule", "parse", "time_ps"]

_PS: Final = {"ps": 1, "ns": 10**3, "us": 10**6, "µs": 10**6, "ms": 10**9, "s": 10**12}
_BITS: Final = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_TIME: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ps|ns|us|µs|ms|s)")
_RATE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kMG]?)bps")
_TIMED: Final = ("delay", "jitter")
_MODIFIERS: Final = ("after", "for", "at", "max_count", "op", "gap", "seed")


def parse(text: str, seed: int = 0) -> Impair:
    """Rules of a text in this language, whose seed is `seed` unless the text says one.

    Raises `ValueError` that says which item is wrong, and the way out.

    >>> impair = parse("loss=0.05,duplicate=0.02,seed=7")
    >>> [(rule.kind, rule.probability) for rule in impair.rules], impair.seed
    ([('loss', 0.05), ('duplicate', 0.02)], 7)
    """
    rules: list[Rule] = []
    for group in filter(None, (part.strip() for part in text.split(";"))):
        links, colon, listed = group.rpartition(":")
        src, dst, both = _links(links.strip()) if colon else ("*", "*", False)
        items = [item.strip() for item in listed.split(",")]
        what = [item for item in items if item.partition("=")[0].strip() not in _MODIFIERS]
        how: dict[str, str] = {}
        for item in items:
            key, equals, value = (part.strip() for part in item.partition("="))
            if key in _MODIFIERS:
                if not equals or key in how:
                    raise ValueError(f"impairment {text!r}: {item!r} needs a value, once in a group")
                how[key] = value
        if "seed" in how:
            seed = _whole("seed", how["seed"])
        if what == [] and set(how) != {"seed"}:
            raise ValueError(f"impairment {text!r}: the group {group!r} says what happens to nothing")
        after, until = _window(how)
        for item in what:
            kind, probability, amount = _item(item, how)
            rules.append(
                Rule(
                    kind,
                    probability,
                    amount,
                    src,
                    dst,
                    both=both or kind == "partition",
                    ops=_ops(how.get("op")),
                    after_ps=after,
                    until_ps=until,
                    max_count=_whole("max_count", how["max_count"]) if "max_count" in how else None,
                )
            )
    return Impair(rules, seed)


def time_ps(text: str) -> int:
    """Picoseconds of ``1.5us``."""
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no time; say it as 50us (ps, ns, us, ms, s)")
    return round(float(found[1]) * _PS[found[2]])


def _links(text: str) -> tuple[str, str, bool]:
    for arrow in ("<->", "->"):
        src, found, dst = text.partition(arrow)
        if found and src.strip() and dst.strip():
            return src.strip(), dst.strip(), arrow == "<->"
    raise ValueError(f"{text!r} names no link; say it as n0->n1, n0<->n1 or n*->n1")


def _window(how: dict[str, str]) -> tuple[int, int | None]:
    if "after" in how and "at" in how:
        raise ValueError("after= and at= are the same: say one of them")
    after = time_ps(how.get("after", how.get("at", "0ps")))
    return after, after + time_ps(how["for"]) if "for" in how else None


def _item(item: str, how: dict[str, str]) -> tuple[str, float, int]:
    """(kind, probability, value) of one item."""
    kind, equals, text = (part.strip() for part in item.partition("="))
    if kind not in KINDS:
        raise ValueError(
            f"impairment {item!r} is unknown; there are {', '.join(KINDS)}, and {', '.join(_MODIFIERS)}"
        )
    if kind == "bandwidth":
        rate = _RATE.fullmatch(text)
        if rate is None:
            raise ValueError(f"{item!r}: a bandwidth is said as 100Mbps")
        return kind, 1.0, round(float(rate[1]) * _BITS[rate[2]])
    if kind in CERTAIN:
        if equals:
            raise ValueError(f"{item!r}: {kind} takes no value; when it holds is said by at= and for=")
        return kind, 1.0, 0
    if kind in _TIMED:
        time, _, chance = text.partition("@")
        return kind, _probability(item, chance) if chance else 1.0, time_ps(time)
    gap = time_ps(how["gap"]) if "gap" in how and kind in ("reorder", "duplicate") else 0
    return kind, _probability(item, text), gap


def _probability(item: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ValueError(f"{item!r}: a probability is a number from 0 to 1")
    return value


def _whole(name: str, text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{name}={text}: a whole number is needed")
    return int(text)


def _ops(text: str | None) -> frozenset[int]:
    if text is None:
        return frozenset()
    try:
        return frozenset(int(PacketOp[name.strip()]) for name in text.split("|"))
    except KeyError as error:
        raise ValueError(f"op={text}: there are {', '.join(op.name for op in PacketOp)}") from error
