"""`unimem.errors` and the two functions that make errors (`unimem._failures`)."""

from __future__ import annotations

import pickle
import re
from typing import Any

import numpy as np
import pytest

from unimem import errors
from unimem._failures import completion_error, refusal
from unimem.v1 import coordinator_pb2 as pb
from unimem.wire import COMPLETION, CompletionFlags, Side, Status

CLASSES = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.UnimemError)]


def test_the_drawn_tree_is_the_tree() -> None:
    drawn: dict[str, str] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^ {4}([│├└─ ]*)([A-Z]\w+)", line)
        if not found:
            continue
        depth = len(found[1]) // 4
        above[depth:] = [found[2]]
        drawn[found[2]] = above[depth - 1] if depth else "Exception"
    assert drawn == {c.__name__: c.__bases__[0].__name__ for c in CLASSES}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda c: c.__name__)
def test_every_error_has_the_seven_attributes_and_survives_pickle(kind: type[errors.UnimemError]) -> None:
    error = kind("it broke", op="put", gva=0x10_0000_1000, node="n2", definite=False)
    again = pickle.loads(pickle.dumps(error))
    for e in (error, again):
        assert (e.op, e.gva, e.node, e.definite) == ("put", 0x10_0000_1000, "n2", False)
        assert e.reason == kind.REASON
        assert e.hint == kind.HINT
        assert e.retryable is kind.RETRYABLE
        assert str(e).startswith("put at 0x10_0000_1000 on n2: it broke; it may have happened")
    assert str(again) == str(error)


def test_the_builtin_bases_work() -> None:
    with pytest.raises(ValueError, match="wrong"):
        raise errors.UsageError("wrong")
    with pytest.raises(TimeoutError):
        raise errors.DeadlineExceeded("late")
    with pytest.raises(ConnectionError):
        raise errors.PeerLost("gone")
    with pytest.raises(PermissionError):
        raise errors.AccessDenied("no")
    with pytest.raises(IndexError):
        raise errors.OutOfBounds("far")


def row(status: int, **fields: Any) -> np.void:
    rows = np.zeros(1, COMPLETION)
    rows["status"] = status
    for name, value in fields.items():
        rows[name] = value
    result: np.void = rows[0]
    return result


def test_a_fault_carries_the_syndrome() -> None:
    error = completion_error(
        row(
            Status.PERMISSION_FAULT, flags=int(CompletionFlags.DEFINITE), side=Side.TARGET, stage=1, level=3,
            access=1, iova=0x30_0000_2000, stream_id=0x205, context_bank=7, fsr=8, fsynr0=0x13,
        ),
        op="put", gva=0x30_0000_2000, node="n2",
    )  # fmt: skip
    assert isinstance(error, errors.PermissionFault)
    assert (error.stage, error.level, error.access, error.side) == (1, 3, "write", "target")
    assert (error.stream_id, error.iova, error.context_bank) == (0x205, 0x30_0000_2000, 7)
    assert (error.fsr, error.fsynr0) == (8, 0x13)
    assert error.definite
    assert error.reason == "PERMISSION_FAULT"
    text = str(error)
    for part in ("put at 0x30_0000_2000 on n2", "write refused", "level 3", "stream 0x205", "rights="):
        assert part in text


@pytest.mark.parametrize("status", [s for s in Status if s != Status.OK], ids=lambda s: s.name)
def test_every_status_has_a_class_and_keeps_its_name(status: Status) -> None:
    error = completion_error(row(status), op="get", gva=1 << 36)
    assert type(error) is not errors.TransferError
    assert not error.definite
    if status not in {Status.TIMED_OUT}:
        assert error.reason == status.name
    if status < 16:
        assert isinstance(error, errors.SmmuFault)


def test_a_page_fault_that_stays_says_where_and_what_to_do() -> None:
    error = completion_error(
        row(
            Status.UNRESOLVED_FAULT, side=Side.TARGET, access=1, level=3, stream_id=0x210, iova=0x10_0000_3000
        ),
        op="put", gva=0x10_0000_3000, node="n1",
    )  # fmt: skip
    assert isinstance(error, errors.UnresolvedFault)
    assert error.retryable
    for part in ("write refused by the target's SMMU", "0x10_0000_3000", "pin the memory"):
        assert part in str(error)


def test_a_status_of_the_future_and_a_note_of_the_port() -> None:
    assert completion_error(row(999), op="put", gva=None).reason == "STATUS_999"
    error = completion_error(row(Status.PEER_LOST), op="put", gva=None, note="the cable was cut")
    assert "the cable was cut" in str(error)


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("UNKNOWN_NODE", errors.UnknownNode),
        ("NODE_LOST", errors.NodeLost),
        ("NO_SPACE", errors.NoSpace),
        ("UNKNOWN_REGION", errors.UnknownRegion),
        ("NOT_REGION_BASE", errors.UnknownRegion),
        ("ACCESS_DENIED", errors.AccessDenied),
        ("NAME_TAKEN", errors.NameTaken),
        ("BAD_LENGTH", errors.UsageError),
        ("INVALID_NAME", errors.UsageError),
        ("SESSION_EXPIRED", errors.SessionExpired),
        ("SOMETHING_NEW", errors.ControlError),
    ],
)
def test_refusals_by_reason(reason: str, kind: type[errors.UnimemError]) -> None:
    error = refusal(pb.FreeRegionRequest(gva=1 << 36), reason, "no.", metadata={"node": "n1"})
    assert type(error) is kind
    assert (error.op, error.gva, error.node, error.reason) == ("free", 1 << 36, "n1", reason)
    assert error.definite


def test_a_refusal_may_bring_its_own_hint() -> None:
    error = refusal(pb.AllocateRegionRequest(node="n3"), "NO_SPACE", "full", metadata={"hint": "use n1"})
    assert error.node == "n3"
    assert str(error) == "alloc on n3: full. Hint: use n1."
