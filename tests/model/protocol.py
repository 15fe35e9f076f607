"""A small model of the fabric's protocol (docs/protocol.md), for exhaustive checking; no code of the product.

One source, one target, one request a packet. The network is the set of all packets ever sent: a step delivers
any of them, at any time, any number of times, or never. So loss, duplication, delay and reordering need no
steps of their own, and no run of the real network is missing. (That something is gone for good is a step all
the same, for the sake of the question whether everything can still end.) The target's outcomes (done,
refused, page not there), time-outs, giving up, cancelling and the crash of either node happen at any moment,
within a budget.

What is checked in every state (`violation`):

* an operation that ended well was executed (in the life of the target for which it was meant: no other
  executes it);
* nothing is executed twice, nothing of the past after something newer;
* an atomic returns what it found;
* what ended as definite has not happened, and never will;
* an ordered request is executed after all before it, a signal only if what it signals was executed;

and of the whole graph (`explore.stuck`): without further misfortune, every request can still end.

`Faults` are mistakes an implementation could make; the checker has to find each of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from protocol_state import (
    CANCEL,
    DONE,
    FAULT,
    GIVE_UP,
    IN_ORDER,
    LOSE,
    OPEN,
    PENDING,
    REFUSE,
    REFUSED,
    REMEMBERED,
    SOURCE_CRASH,
    STALE,
    TARGET_CRASH,
    Answer,
    End,
    Kind,
    Packet,
    Setting,
    Source,
    State,
    Target,
    first,
)


def put(values: tuple[Any, ...], i: int, value: object) -> tuple[Any, ...]:
    """`values` with another one at `i`."""
    return (*values[:i], value, *values[i + 1 :])


def spend(state: State, what: int) -> tuple[int, ...]:
    """The budget after one misfortune."""
    return put(state.budget, what, state.budget[what] - 1)


def base_of(setting: Setting, source: Source) -> int:
    """The oldest seq that is not settled."""
    pairs = zip(source.ends, source.seqs, strict=True)
    if setting.faults.base_too_early:
        return max((seq + 1 for end, seq in pairs if end not in OPEN and end is not End.GONE), default=0)
    return min((seq for end, seq in pairs if seq >= 0 and end in OPEN), default=source.next_seq)


class Model:
    """The steps of one setting."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.faults = setting, setting.faults
        self.kinds = setting.kinds

    def steps(self, state: State) -> Iterator[tuple[bool, State]]:
        """(is it a misfortune?, next state) for everything that may happen now."""
        for number, end in enumerate(state.source.ends):
            if end is End.IDLE:
                yield from self._send(state, number)
            elif end in {End.SENT, End.WAITING}:  # the timer, or READY
                yield False, self._emit(state, number)
        for packet in state.net:
            if type(packet) is Packet:
                yield from self._serve(state, packet)
            else:
                yield from self._settle(state, packet)  # type: ignore[arg-type]
        for entry in state.target.busy:
            yield False, self._finish(state, entry)
        for number in state.target.owed:
            owed = state.target._replace(owed=state.target.owed - {number})
            yield False, self._executed(state._replace(target=owed), number, state.target.seen)
        yield from self._misfortunes(state)

    # ---- the source

    def _send(self, state: State, number: int) -> Iterator[tuple[bool, State]]:
        source, setting = state.source, self.setting
        if number and source.ends[number - 1] is End.IDLE:
            return  # first come, first served
        seq = source.next_seq
        if seq - base_of(setting, source) >= setting.window:
            return
        slot = -1
        if self.kinds[number] in REMEMBERED:
            taken = {s for s, end in zip(source.slots, source.ends, strict=True) if end in OPEN}
            free = [s for s in range(setting.slots) if s not in taken]
            if not free and not self.faults.reuse_slot:
                return
            slot = free[0] if free else 0
        source = source._replace(
            next_seq=seq + 1,
            ends=put(source.ends, number, End.SENT),
            seqs=put(source.seqs, number, seq),
            slots=put(source.slots, number, slot),
        )
        yield False, self._emit(state._replace(source=source), number)

    def _emit(self, state: State, number: int) -> State:
        source = state.source
        if self.faults.new_seq_on_resend and any(type(p) is Packet and p.number == number for p in state.net):
            if source.next_seq > 3:
                return state
            seqs = put(source.seqs, number, source.next_seq)
            source = source._replace(next_seq=source.next_seq + 1, seqs=seqs)
        packet = Packet(
            number,
            source.life,
            source.meant,
            source.connection,
            source.seqs[number],
            base_of(self.setting, source),
            source.slots[number],
        )
        source = source._replace(ends=put(source.ends, number, End.SENT))
        return state._replace(source=source, net=state.net | {packet})

    def _settle(self, state: State, answer: Answer) -> Iterator[tuple[bool, State]]:
        source = state.source
        if answer.life != source.life:
            return
        if answer.connection != source.connection and not self.faults.keep_old_answers:
            return
        for number, seq in enumerate(source.seqs):
            if seq == answer.seq and source.ends[number] in {End.SENT, End.WAITING}:
                break
        else:
            return
        if answer.what == STALE:  # the life it was meant for is over, and may have executed it
            if self.faults.resend_to_new_life:
                yield False, state._replace(source=source._replace(meant=source.meant + 1))
                return
            end = End.DEFINITE if self.faults.definite_when_stale else End.DOUBTFUL
            yield False, state._replace(source=self._ended(source, number, end))
            return
        if answer.what == PENDING:
            if source.ends[number] is End.WAITING:
                return
            rounds = source.rounds[number] + 1
            end = End.WAITING
            if rounds == self.setting.rounds:
                end = End.DEFINITE if self.faults.definite_when_unresolved else End.DOUBTFUL
            source = source._replace(rounds=put(source.rounds, number, rounds))
            source = self._ended(source, number, end)
        elif answer.what == REFUSED:
            source = self._ended(source, number, End.DEFINITE)
        else:
            source = source._replace(
                ends=put(source.ends, number, End.OK), values=put(source.values, number, answer.value)
            )
        yield False, state._replace(source=source)

    def _ended(self, source: Source, number: int, end: End) -> Source:
        """A request's new state; when it has failed, its signal ends in the same step, and never leaves."""
        ends = put(source.ends, number, end)
        after = number + 1
        if (
            end in {End.DEFINITE, End.DOUBTFUL}
            and after < len(ends)
            and self.kinds[after] is Kind.SIGNAL
            and ends[after] in OPEN
            and not self.faults.signal_alone
        ):
            ends = put(ends, after, End.DEFINITE if ends[after] is End.IDLE else End.DOUBTFUL)
        return source._replace(ends=ends)

    # ---- the target

    def _serve(self, state: State, packet: Packet) -> Iterator[tuple[bool, State]]:
        target, faults = state.target, self.faults
        if packet.meant != target.life:
            yield False, self._answer(state, packet, STALE)
            return
        now = (packet.life, packet.connection)
        if faults.keep_old_packets:
            now = (packet.life, max(packet.connection, target.seen[1]))
            same = packet.life == target.seen[0]
        else:
            same = now == target.seen
        if faults.keep_window_of_old_life and target.seen[0]:
            now, same = max(now, target.seen), True
        if now < target.seen:
            return  # from the past
        if not same:
            target = Target(
                life=target.life, seen=now, replay=((-1, -1),) * self.setting.slots, counter=target.counter
            )
        else:
            target = target._replace(seen=now)
        if packet.base > target.base:
            target = target._replace(
                base=packet.base, received=frozenset(s for s in target.received if s >= packet.base)
            )
        state = state._replace(target=target)
        if packet.seq < target.base and not faults.execute_below_base:
            # Counted as received. A write is acknowledged again; what was remembered is forgotten.
            if self.kinds[packet.number] in REMEMBERED or packet.seq in target.refused:
                yield False, state
            else:
                yield False, self._answer(state, packet, DONE)
        elif packet.seq in target.received and not faults.no_dedupe:
            yield False, self._again(state, packet)
        elif packet.seq - target.base < self.setting.window:
            yield from self._execute(state, packet)

    def _again(self, state: State, packet: Packet) -> State:
        """A duplicate of something executed, refused or under way."""
        target = state.target
        if packet.seq in target.refused:
            return self._answer(state, packet, REFUSED)
        if any(seq == packet.seq for seq, _, _ in target.busy):
            if self.faults.restart_copy:
                return self._executed(state, packet.number, target.seen)
            return state
        if self.kinds[packet.number] not in REMEMBERED:
            return self._answer(state, packet, DONE)
        seq, value = target.replay[packet.slot]
        if seq != packet.seq and not self.faults.trust_slot:
            return state
        return self._answer(state, packet, DONE, value)

    def _execute(self, state: State, packet: Packet) -> Iterator[tuple[bool, State]]:
        target, kind = state.target, self.kinds[packet.number]
        in_order = kind not in IN_ORDER or all(
            seq in target.received for seq in range(target.base, packet.seq)
        )
        if not in_order and not self.faults.ignore_order:
            yield False, state  # OUT_OF_ORDER: it is sent again
            return
        received = target.received | {packet.seq}
        if kind is Kind.SIGNAL and packet.seq - 1 in target.refused and not self.faults.signal_blind:
            passed_on = target._replace(received=received, refused=target.refused | {packet.seq})
            yield False, self._answer(state._replace(target=passed_on), packet, REFUSED)
            return
        if state.budget[FAULT]:
            yield True, self._answer(state, packet, PENDING)._replace(budget=spend(state, FAULT))
        if state.budget[REFUSE]:
            refused = state._replace(
                target=target._replace(received=received, refused=target.refused | {packet.seq}),
                budget=spend(state, REFUSE),
            )
            yield True, self._answer(refused, packet, REFUSED)
        if self.faults.forget_when_answered:
            received = target.received
        if kind is Kind.COPY:
            entry = (packet.seq, packet.number, packet.slot)
            busy = target._replace(received=received, busy=target.busy | {entry})
            yield False, state._replace(target=busy)
        elif kind is Kind.ATOMIC:
            value = target.counter
            done = target._replace(
                received=received,
                replay=self._remember(target, packet.slot, packet.seq, value),
                counter=value + 1,
            )
            done_state = self._executed(state._replace(target=done), packet.number, target.seen)
            found = put(done_state.found, packet.number, value)
            yield False, self._answer(done_state._replace(found=found), packet, DONE, value)
        elif self.faults.ack_first:
            owed = target._replace(received=received, owed=target.owed | {packet.number})
            yield False, self._answer(state._replace(target=owed), packet, DONE)
        else:
            done_state = state._replace(target=target._replace(received=received))
            yield False, self._answer(self._executed(done_state, packet.number, target.seen), packet, DONE)

    def _remember(self, target: Target, slot: int, seq: int, value: int) -> tuple[tuple[int, int], ...]:
        """The replay slots with an answer in them; one that a newer request uses is not taken back."""
        if target.replay[slot][0] > seq and not self.faults.take_slot_back:
            return target.replay
        return put(target.replay, slot, (seq, value))

    def _finish(self, state: State, entry: tuple[int, int, int]) -> State:
        """A copy under way has been acknowledged by the third node."""
        seq, number, slot = entry
        target = state.target
        target = target._replace(busy=target.busy - {entry}, replay=self._remember(target, slot, seq, -1))
        state = self._executed(state._replace(target=target), number, target.seen)
        life, connection = target.seen
        return state._replace(net=state.net | {Answer(DONE, life, connection, seq, -1)})

    def _executed(self, state: State, number: int, now: tuple[int, int]) -> State:
        wrong = state.wrong
        real = self._origin(state, number)
        if real < state.last:
            wrong = f"request {number} of the past is executed after something newer"
        if self.kinds[number] in IN_ORDER:
            for before in range(number):
                flying = state.source.ends[before] in {End.SENT, End.WAITING}
                seq = state.source.seqs[before]
                same = 0 <= seq < state.source.seqs[number] and seq not in state.target.refused
                if flying and same and not state.executed[before]:
                    wrong = f"request {number} is executed before request {before}"
        if self.kinds[number] is Kind.SIGNAL and not state.executed[number - 1]:
            wrong = f"request {number} signals what was not executed"
        return state._replace(
            executed=put(state.executed, number, state.executed[number] + 1),
            ever=put(state.ever, number, state.ever[number] + 1),
            last=max(state.last, real),
            wrong=wrong,
        )

    def _origin(self, state: State, number: int) -> tuple[int, int]:
        """Life and connection under which a request was sent."""
        sent = [(p.life, p.connection) for p in state.net if type(p) is Packet and p.number == number]
        return max(sent, default=state.target.seen)

    def _answer(self, state: State, packet: Packet, what: str, value: int = -1) -> State:
        answer = Answer(what, packet.life, packet.connection, packet.seq, value)
        return state._replace(net=state.net | {answer})

    # ---- misfortunes

    def _misfortunes(self, state: State) -> Iterator[tuple[bool, State]]:
        source, target = state.source, state.target
        flying = [i for i, end in enumerate(source.ends) if end in {End.SENT, End.WAITING}]
        if state.budget[GIVE_UP] and flying:
            yield True, self._lost(state._replace(budget=spend(state, GIVE_UP)))
        if state.budget[LOSE]:
            for thing in state.net:
                yield True, state._replace(net=state.net - {thing}, budget=spend(state, LOSE))
        if state.budget[CANCEL]:
            for number, end in enumerate(source.ends):
                if end in OPEN:
                    how = (
                        End.DEFINITE
                        if end is End.IDLE or self.faults.definite_when_cancelled
                        else End.DOUBTFUL
                    )
                    ended = self._ended(source, number, how)
                    yield True, state._replace(source=ended, budget=spend(state, CANCEL))
        if state.budget[SOURCE_CRASH] and self.setting.later:
            n = len(self.setting.requests)
            ends = tuple(
                End.IDLE if i >= n else End.GONE if end in OPEN else end for i, end in enumerate(source.ends)
            )
            fresh = first(self.setting).source._replace(
                life=2, meant=source.meant, ends=ends, values=source.values
            )
            yield True, state._replace(source=fresh, budget=spend(state, SOURCE_CRASH))
        if state.budget[TARGET_CRASH]:
            yield (
                True,
                state._replace(
                    target=Target(life=target.life + 1, replay=((-1, -1),) * self.setting.slots),
                    executed=(0,) * len(state.executed),
                    last=(0, 0),
                    budget=spend(state, TARGET_CRASH),
                ),
            )
        if source.meant < target.life:  # the new route table
            if self.faults.resend_to_new_life:
                yield False, state._replace(source=source._replace(meant=target.life))
            else:
                yield False, self._lost(state._replace(source=source._replace(meant=target.life)))

    def _lost(self, state: State) -> State:
        """Everything under way ends in doubt; a new connection begins."""
        source = state.source
        for number, end in enumerate(source.ends):
            if end in {End.SENT, End.WAITING}:
                source = self._ended(source, number, End.DOUBTFUL)
        none = (-1,) * len(source.ends)
        return state._replace(
            source=source._replace(connection=source.connection + 1, next_seq=0, seqs=none, slots=none)
        )

    # ---- properties

    def violation(self, state: State) -> str:
        """What is wrong with a state; empty when nothing is."""
        if state.wrong:
            return state.wrong
        for number, end in enumerate(state.source.ends):
            times = state.ever[number]
            if times > 1:
                return f"request {number} was executed {times} times"
            if end is End.OK and not times:
                return f"request {number} is acknowledged and was not executed"
            if end is End.DEFINITE and times:
                return f"request {number} certainly did not happen, and was executed"
            if end is End.OK and state.found[number] != state.source.values[number]:
                return (
                    f"atomic {number} found {state.found[number]} and returned {state.source.values[number]}"
                )
        return ""

    def settled(self, state: State) -> bool:
        """Every request has its end."""
        return not any(end in OPEN for end in state.source.ends)
