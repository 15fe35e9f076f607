"""The protocol, exhaustively: a small model has no bad state, and each mistake one could make has one."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from explore import explore
from protocol import Model
from protocol_state import Faults, Kind, Setting, first

A, W, C, S = Kind.ATOMIC, Kind.WRITE, Kind.COPY, Kind.SIGNAL

#: What may go wrong, and (at least) how many states there are to look at.
SETTINGS = {
    "doubt": (Setting((A, A, W), give_up=1, cancel=1, refuse=1), 5_000),
    "second life": (Setting((A, W, A), (A,), slots=1, give_up=1, source_crash=1), 1_000),
    "order": (Setting((W, W, Kind.ORDERED), cancel=1, refuse=1, fault=1), 20_000),
    "signal": (Setting((W, S, W), cancel=1, refuse=1, fault=2), 50_000),
    "signal given up": (Setting((W, S, W), give_up=1, refuse=1), 900),
    "crash": (Setting((A, C, W), target_crash=1, fault=1), 50_000),
    "one slot": (Setting((W, A, A), slots=1, cancel=1, lose=1), 1_500),
    "copy and slot": (Setting((W, C, A), slots=1, cancel=1, lose=1), 1_500),
    "two connections": (Setting((W, C, A), give_up=2, fault=1), 6_000),
    "both crash": (Setting((W, A, W), (A,), give_up=1, source_crash=1, target_crash=1), 100_000),
    "gone for good": (Setting((A, W, C), refuse=1, lose=2), 15_000),
}

#: Each mistake, and where it shows.
MISTAKES = {
    "no_dedupe": "doubt",
    "forget_when_answered": "doubt",
    "base_too_early": "doubt",
    "execute_below_base": "second life",
    "reuse_slot": "one slot",
    "take_slot_back": "copy and slot",
    "keep_old_packets": "second life",
    "keep_old_answers": "doubt",
    "ack_first": "crash",
    "new_seq_on_resend": "doubt",
    "definite_when_cancelled": "doubt",
    "definite_when_stale": "crash",
    "definite_when_unresolved": "order",
    "keep_window_of_old_life": "second life",
    "resend_to_new_life": "crash",
    "restart_copy": "crash",
    "ignore_order": "order",
    "signal_alone": "signal given up",
    "signal_blind": "signal",
}

#: No mistakes by themselves: what they omit is a second line of defence.
DEFENCES = {"trust_slot"}


@pytest.mark.parametrize("name", SETTINGS)
def test_no_schedule_of_the_network_hurts(name: str) -> None:
    setting, at_least = SETTINGS[name]
    found = explore(Model(setting), first(setting))
    assert not found.violation, "\n".join(map(str, (found.violation, *found.trace)))
    assert found.states >= at_least


def test_every_mistake_is_tried() -> None:
    assert set(MISTAKES) | DEFENCES == {mistake.name for mistake in fields(Faults)}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_checker_finds(mistake: str) -> None:
    setting = replace(SETTINGS[MISTAKES[mistake]][0], faults=Faults(**{mistake: True}))
    found = explore(Model(setting), first(setting))
    assert found.violation
    assert found.trace[0] == first(setting)
    assert len(found.trace) > 2


def test_a_slot_that_is_given_away_is_found_out_by_what_it_returns() -> None:
    """With the defence in place the answer is missing; without it, it is another's."""
    setting = SETTINGS["one slot"][0]
    for faults, words in (
        (Faults(reuse_slot=True), "a request can never end"),
        (Faults(reuse_slot=True, trust_slot=True), "atomic 1 found 0 and returned 1"),
    ):
        assert explore(Model(replace(setting, faults=faults)), first(setting)).violation == words
