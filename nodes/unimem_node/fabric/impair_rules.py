"""A bad network, by packet and reproducible: loss, duplicates, reordering, damage, delay, partitions.

What the links of the model never do by themselves, the network between two transports may: an `Impair` sits
where a frame is handed over and answers with the frames that arrive instead, and how much later. The unit is
the packet, as on a real network; of a frame whose packets have different fates, frames of their own are made.

Every decision is a function of (seed, directed link, number of the packet on that link, rule), so a run can
be repeated, and a packet's fate does not depend on what other links carry. The random bits are those of
SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014).

How rules are said in one line of text: `unimem_node.fabric.impair`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final

import numpy as np
import numpy.typing as npt

from . import _fast_columns as col
from ._fast_crc import packet_crc
from .packets import ACK_RECORD, HAS_PAYLOAD, PACKET, PacketOp, seal_header, seal_packet

Bytes = npt.NDArray[np.uint8]

#: What a rule may do. All but the last four happen with a probability.
KINDS: Final = (
    "loss",
    "duplicate",
    "reorder",
    "corrupt",
    "delay",
    "jitter",
    "hold",
    "bandwidth",
    "partition",
    "partition_oneway",
)
CERTAIN: Final = frozenset({"hold", "bandwidth", "partition", "partition_oneway"})

#: How far a reordered packet, or the second copy of a doubled one, falls behind at most; [D]: ten packets of
#: 16 KiB on a link of 10 Gb/s are 131 µs.
GAP_PS: Final = 100_000_000

_MASK: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E37_79B9_7F4A_7C15


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that happens to packets of some links.

    `value`: ps for delay, jitter (at most), reorder and duplicate (how far behind, at most); bits a second
    for bandwidth. Only packets handed over at virtual times in ``[after_ps, until_ps)`` are concerned, and
    at most `max_count` of them.
    """

    kind: str
    probability: float = 1.0
    value: int = 0
    src: str = "*"
    dst: str = "*"
    both: bool = False  # the other direction too
    ops: frozenset[int] = frozenset()  # kinds of packets; empty: all
    after_ps: int = 0
    until_ps: int | None = None
    max_count: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"impairment {self.kind!r} is unknown; there are {', '.join(KINDS)}")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"{self.kind}={self.probability}: a probability is a number from 0 to 1")
        if self.kind == "hold" and self.until_ps is None:
            raise ValueError("hold needs an end: add for=, as in 'hold,after=1ms,for=200us'")
        if self.kind == "bandwidth" and self.value <= 0:
            raise ValueError("bandwidth needs bits a second, as in bandwidth=1Gbps")

    def matches(self, src: str, dst: str) -> bool:
        """Whether the rule is about the link from `src` to `dst`."""
        if fnmatchcase(src, self.src) and fnmatchcase(dst, self.dst):
            return True
        return self.both and fnmatchcase(dst, self.src) and fnmatchcase(src, self.dst)


@dataclass(slots=True)
class _Installed:
    """A rule of one link, with what it remembers."""

    number: int  # among all rules: its random bits are its own
    rule: Rule
    threshold: int
    used: list[int]  # how often the rule was applied, on all links; shared
    free_ps: int = 0  # when the narrow link has sent what came before (bandwidth)


@dataclass(slots=True)
class _Link:
    """One direction between two nodes."""

    key: int
    rules: list[_Installed]
    packets: int = 0  # so far


@dataclass(slots=True)
class _Fate:
    """What becomes of a packet; times in ps."""

    lost: bool = False
    delay: int = 0
    flips: list[int] = field(default_factory=list)  # random words, one for each bit that flips
    copies: list[int] = field(default_factory=list)  # how far behind the first each further copy is


def mix(value: int) -> int:
    """Turn a counter into 64 random bits: the output function of SplitMix64."""
    value = (value ^ value >> 30) * 0xBF58_476D_1CE4_E5B9 & _MASK
    value = (value ^ value >> 27) * 0x94D0_49BB_1331_11EB & _MASK
    return value ^ value >> 31


def draws(key: int, first: int, n: int) -> npt.NDArray[np.uint64]:
    """64 random bits for each of the packets `first` to `first` + `n` - 1 of the stream `key`."""
    z = np.arange(first + 1, first + n + 1, dtype=np.uint64) * np.uint64(_GOLDEN) + np.uint64(key)
    z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58_476D_1CE4_E5B9)
    z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D0_49BB_1331_11EB)
    return z ^ z >> np.uint64(31)


class Impair:
    """The rules of one network. `name_of` gives the names that rules mean by node index (n0, n1, …)."""

    def __init__(
        self, rules: Iterable[Rule], seed: int = 0, name_of: Callable[[int], str] = lambda index: f"n{index}"
    ) -> None:
        self.rules = tuple(rules)
        self.seed = seed
        self.name_of = name_of
        self._links: dict[tuple[int, int], _Link] = {}
        self._used = [[0] for _ in self.rules]

    def __bool__(self) -> bool:
        """Whether anything can ever happen."""
        return any(rule.probability > 0 for rule in self.rules)

    def counts(self) -> dict[str, int]:
        """How often each kind of impairment was applied to a packet."""
        found: dict[str, int] = {}
        for rule, (used,) in zip(self.rules, self._used, strict=True):
            found[rule.kind] = found.get(rule.kind, 0) + used
        return found

    def apply(self, frame: Bytes, now_ps: int) -> list[tuple[int, Bytes]]:
        """What arrives instead of `frame`, handed over at `now_ps`: (ps later, frame), read-only.

        The time stamps in a delayed frame are later by the same. Bytes that are no frame pass as they are.
        """
        opened = _packets(frame)
        if opened is None:
            return [(0, frame)]
        src, dst, packets = opened
        link = self._links.get((src, dst))
        if link is None:
            link = self._links[src, dst] = self._open(src, dst)
        first, link.packets = link.packets, link.packets + len(packets)
        fates: dict[int, _Fate] = {}
        for installed in link.rules:
            rule = installed.rule
            if rule.after_ps <= now_ps and (rule.until_ps is None or now_ps < rule.until_ps):
                self._decide(link, installed, first, packets, fates)
        if not fates:
            return [(0, frame)]
        return _frames(frame, packets, fates)

    def _open(self, src: int, dst: int) -> _Link:
        names = self.name_of(src), self.name_of(dst)
        rules = [
            _Installed(number, rule, int(rule.probability * (1 << 64)), used)
            for number, (rule, used) in enumerate(zip(self.rules, self._used, strict=True))
            if rule.probability > 0 and rule.matches(*names)
        ]
        return _Link(mix(mix(self.seed & _MASK) ^ src << 32 ^ dst), rules)

    def _decide(
        self, link: _Link, installed: _Installed, first: int, packets: np.ndarray, fates: dict[int, _Fate]
    ) -> None:
        """Apply one rule to the packets of a frame."""
        rule = installed.rule
        key = mix(link.key ^ (installed.number + 1) * _GOLDEN & _MASK)
        if rule.probability < 1:
            bits = draws(key, first, len(packets))
            hit = np.flatnonzero(bits < np.uint64(installed.threshold))
        else:
            hit = np.arange(len(packets))
        if rule.ops:
            hit = hit[np.isin(packets["op"][hit], list(rule.ops))]
        for i in hit.tolist():
            if rule.max_count is not None and installed.used[0] >= rule.max_count:
                return
            fate = fates.get(i)
            if fate is None:
                fate = fates[i] = _Fate()
            elif fate.lost:
                continue
            installed.used[0] += 1
            _befall(fate, installed, packets[i], mix(key + mix(first + i) & _MASK))


def _befall(fate: _Fate, installed: _Installed, packet: np.void, bits: int) -> None:
    """Let a rule happen to a packet, with 64 random bits that belong to both."""
    rule = installed.rule
    within = (bits * (rule.value or GAP_PS) >> 64) + 1
    due = int(packet["time"]) + fate.delay
    match rule.kind:
        case "loss" | "partition" | "partition_oneway":
            fate.lost = True
        case "duplicate":
            fate.copies.append(within)
        case "reorder" | "jitter":
            fate.delay += within
        case "corrupt":
            fate.flips.append(bits)
        case "delay":
            fate.delay += rule.value
        case "hold":
            fate.delay += max((rule.until_ps or 0) - due, 0)
        case "bandwidth":
            start = max(due, installed.free_ps)
            n = int(packet["length"]) if packet["flags"] & HAS_PAYLOAD else 0
            installed.free_ps = start + (col.PACKET_BYTES + n) * 8_000_000_000_000 // rule.value
            fate.delay += installed.free_ps - due


def later(frame: Bytes, delay_ps: int) -> Bytes:
    """The same frame with every time stamp in it later by `delay_ps`; what is no frame stays as it is."""
    opened = _packets(frame)
    if opened is None or delay_ps <= 0:
        return frame
    return _pick(frame, opened[2], [(i, []) for i in range(len(opened[2]))], delay_ps)


def _packets(frame: Bytes) -> tuple[int, int, np.ndarray] | None:
    """(source, destination, packets) of a frame, or None when it cannot be one."""
    if len(frame) < col.HEADER:
        return None
    words = np.frombuffer(frame[: col.HEADER].tobytes(), "<u4")
    count = int(words[col.H_COUNT // 4])
    end = col.HEADER + count * col.PACKET_BYTES
    if words[col.H_COUNT // 4 + 1] != col.PACKET_BYTES or count == 0 or end > len(frame):
        return None
    return int(words[col.H_SRC // 4]), int(words[col.H_DST // 4]), frame[col.HEADER : end].view(PACKET)


def _frames(frame: Bytes, packets: np.ndarray, fates: dict[int, _Fate]) -> list[tuple[int, Bytes]]:
    """One frame for each delay, with the packets that have it."""
    groups: dict[int, list[tuple[int, list[int]]]] = {}
    for i in range(len(packets)):
        fate = fates.get(i)
        if fate is None:
            groups.setdefault(0, []).append((i, []))
        elif not fate.lost:
            groups.setdefault(fate.delay, []).append((i, fate.flips))
            for behind in fate.copies:
                groups.setdefault(fate.delay + behind, []).append((i, fate.flips))
    return [(delay, _pick(frame, packets, picked, delay)) for delay, picked in groups.items()]


def _pick(frame: Bytes, packets: np.ndarray, picked: list[tuple[int, list[int]]], delay: int) -> Bytes:
    """A frame of some packets of another, `delay` ps later, sealed; then the bits that flip are flipped.

    Payloads that no picked packet refers to stay behind. A packet whose payload is not inside the frame, or
    whose checksum is wrong, stays as wrong as it was.
    """
    start = col.HEADER + len(picked) * col.PACKET_BYTES
    sources = [_source(frame, packets[i]) for i, _ in picked]
    data = np.zeros(start + sum((n + 7) & ~7 for _, n in sources), np.uint8)
    data[: col.HEADER] = frame[: col.HEADER]
    table = data[col.HEADER : start].view(PACKET)
    bodies = []
    for number, ((i, _), (at, n)) in enumerate(zip(picked, sources, strict=True)):
        table[number] = packets[i]
        packet = table[number]
        bodies.append(start)
        if at < 0 or (delay == 0 and (n == 0 or at == start)):
            data[start : start + n] = frame[at : at + n]
        else:
            error = int(packet["crc"]) ^ packet_crc(frame, col.HEADER + i * col.PACKET_BYTES, at, n)
            packet["time"] += np.uint64(delay)
            if n:
                packet["payload_offset"] = start
                body = data[start : start + n]
                body[:] = frame[at : at + n]
                if delay and packet["op"] == PacketOp.ACK and n % ACK_RECORD.itemsize == 0:
                    body.view(ACK_RECORD)["time"] += np.uint64(delay)
            seal_packet(data, number)
            packet["crc"] ^= np.uint32(error)
        start += (n + 7) & ~7
    data[col.H_COUNT : col.H_COUNT + 4].view("<u4")[0] = len(picked)
    data[col.H_TOTAL : col.H_TOTAL + 8].view("<u8")[0] = len(data)
    time = data[col.H_TIME : col.H_TIME + 8].view("<u8")
    last = int(time[0]) + delay if len(picked) == len(packets) else int(table["time"].max())
    time[0] = min(last, col.TIME_LIMIT - 1)
    seal_header(data)
    for number, (_, flips) in enumerate(picked):
        for bits in flips:
            which = bits % (8 * (col.PACKET_BYTES + sources[number][1]))
            byte, bit = which >> 3, which & 7
            if byte < col.PACKET_BYTES:
                data[col.HEADER + number * col.PACKET_BYTES + byte] ^= 1 << bit
            else:
                data[bodies[number] + byte - col.PACKET_BYTES] ^= 1 << bit
    data.setflags(write=False)
    return data


def _source(frame: Bytes, packet: np.void) -> tuple[int, int]:
    """(offset, bytes) of a packet's payload; (-1, 0) when it says one that is not inside the frame."""
    n = int(packet["length"]) if packet["flags"] & HAS_PAYLOAD else 0
    at = int(packet["payload_offset"]) if n else 0
    return (at, n) if at + n <= len(frame) else (-1, 0)
