"""What the model of `protocol` is made of: requests, packets, states, budgets, and mistakes to make."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """Of a request: what matters about its operation."""

    WRITE = "write"  # acknowledged again when it comes again
    ORDERED = "ordered"  # a write after everything before it
    SIGNAL = "signal"  # ordered, and only if the request before it was executed
    ATOMIC = "atomic"  # its answer is remembered in a replay slot
    COPY = "copy"  # takes a while, and its answer is remembered


class End(IntEnum):
    """How far a request is, for its source."""

    IDLE = 0
    SENT = 1
    WAITING = 2  # the target said that a page is missing
    OK = 3
    DEFINITE = 4  # failed, and certainly did not happen
    DOUBTFUL = 5  # failed, and may have happened
    GONE = 6  # its source crashed: nobody is owed anything


OPEN = frozenset({End.IDLE, End.SENT, End.WAITING})
IN_ORDER = frozenset({Kind.ORDERED, Kind.SIGNAL})
REMEMBERED = frozenset({Kind.ATOMIC, Kind.COPY})
#: Answers.
DONE, REFUSED, PENDING, STALE = "done", "refused", "pending", "stale"


@dataclass(frozen=True, slots=True)
class Faults:
    """Mistakes to make."""

    no_dedupe: bool = False  # the target executes what it has executed
    forget_when_answered: bool = False  # ... forgets that it has, once it has answered
    base_too_early: bool = False  # the source's base skips what is unanswered
    execute_below_base: bool = False
    reuse_slot: bool = False  # a replay slot is given away before its answer has come
    trust_slot: bool = False  # ... and the target does not look whose answer is in it
    take_slot_back: bool = False  # ... or an answer nobody waits for drives out that of a newer request
    keep_old_packets: bool = False  # the target does not look at the connection
    keep_old_answers: bool = False  # ... nor the source, in answers
    ack_first: bool = False  # acknowledged, then executed
    new_seq_on_resend: bool = False
    definite_when_cancelled: bool = False
    definite_when_stale: bool = False
    definite_when_unresolved: bool = False
    keep_window_of_old_life: bool = False  # the target does not look at the source's incarnation
    resend_to_new_life: bool = False  # the source goes on with a target that has lost its memory
    restart_copy: bool = False  # a duplicate of a copy under way starts it again
    ignore_order: bool = False
    signal_alone: bool = False  # the source goes on with a signal whose data has failed
    signal_blind: bool = False  # the target does not look whether the data was refused


@dataclass(frozen=True, slots=True)
class Setting:
    """Requests of the source's first life, then (`later`) of its second; sizes; how much may go wrong."""

    requests: tuple[Kind, ...]
    later: tuple[Kind, ...] = ()
    window: int = 3
    slots: int = 2
    give_up: int = 0
    cancel: int = 0
    refuse: int = 0
    fault: int = 0  # pages found missing
    source_crash: int = 0
    target_crash: int = 0
    lose: int = 0  # requests or answers gone for good
    rounds: int = 2  # PENDING answers after which the source gives a request up
    faults: Faults = Faults()

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Of all requests, by number."""
        return self.requests + self.later


class Packet(NamedTuple):
    """A request on the wire. (life, connection, seq) identifies it; `number` stands for address and bytes."""

    number: int
    life: int
    meant: int  # which life of the target
    connection: int
    seq: int
    base: int
    slot: int


class Answer(NamedTuple):
    """What the target says of a request."""

    what: str
    life: int
    connection: int
    seq: int
    value: int


class Source(NamedTuple):
    life: int = 1
    connection: int = 1
    meant: int = 1
    next_seq: int = 0
    ends: tuple[End, ...] = ()
    seqs: tuple[int, ...] = ()
    slots: tuple[int, ...] = ()  # -1: none
    rounds: tuple[int, ...] = ()
    values: tuple[int, ...] = ()  # what atomics returned


class Target(NamedTuple):
    life: int = 1
    seen: tuple[int, int] = (0, 0)  # life and connection of the source
    base: int = 0
    received: frozenset[int] = frozenset()
    refused: frozenset[int] = frozenset()
    busy: frozenset[tuple[int, int, int]] = frozenset()  # copies under way: (seq, number, slot)
    replay: tuple[tuple[int, int], ...] = ()  # by slot: (seq, value)
    counter: int = 0  # what atomics add to
    owed: frozenset[int] = frozenset()  # of the mistake `ack_first`: acknowledged and not executed


class State(NamedTuple):
    """Everything. `executed`: by request, in this life of the target; `ever`: in all; `found`: by atomics."""

    source: Source
    target: Target
    net: frozenset[Packet | Answer]
    executed: tuple[int, ...]
    ever: tuple[int, ...]
    found: tuple[int, ...]
    last: tuple[int, int]  # life and connection of the newest request executed
    wrong: str  # a property of steps, not of states, that was hurt
    budget: tuple[int, ...]


def first(setting: Setting) -> State:
    """Nothing has happened."""
    n = len(setting.kinds)
    zeros, none = (0,) * n, (-1,) * n
    ends = (End.IDLE,) * len(setting.requests) + (End.GONE,) * len(setting.later)
    return State(
        Source(ends=ends, seqs=none, slots=none, rounds=zeros, values=none),
        Target(replay=((-1, -1),) * setting.slots),
        frozenset(),
        zeros,
        zeros,
        none,
        (0, 0),
        "",
        (
            setting.give_up,
            setting.cancel,
            setting.refuse,
            setting.fault,
            setting.source_crash,
            setting.target_crash,
            setting.lose,
        ),
    )


GIVE_UP, CANCEL, REFUSE, FAULT, SOURCE_CRASH, TARGET_CRASH, LOSE = range(7)
