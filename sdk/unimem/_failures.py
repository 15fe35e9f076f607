"""From what came back to an exception: COMPLETION rows and the coordinator's refusals, mapped onto the tree.

The two functions here are the only places where `unimem.errors` are made from something on the wire, so that
a simulated port and a real one cannot differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from unimem.addresses import fmt
from unimem.errors import (
    AccessDenied,
    AccessFlagFault,
    AddressError,
    AddressSizeFault,
    BankBlocked,
    Cancelled,
    ControlError,
    CorruptPacket,
    DeadlineExceeded,
    ExternalAbort,
    MailboxFull,
    MalformedRequest,
    NameTaken,
    NoContextBank,
    NodeLost,
    NoRoute,
    NoSpace,
    PeerLost,
    PeerUnreachable,
    PermissionFault,
    SessionExpired,
    SmmuFault,
    StaleRoute,
    StreamFault,
    TlbConflict,
    TransferError,
    TranslationFault,
    UnimemError,
    UnknownNode,
    UnknownRegion,
    UnresolvedFault,
    UsageError,
)
from unimem.wire import CompletionFlags, Side, Status

if TYPE_CHECKING:
    import numpy as np
    from google.protobuf.message import Message

_SMMU: Mapping[int, type[SmmuFault]] = {
    Status.TRANSLATION_FAULT: TranslationFault,
    Status.ACCESS_FLAG_FAULT: AccessFlagFault,
    Status.PERMISSION_FAULT: PermissionFault,
    Status.EXTERNAL_ABORT: ExternalAbort,
    Status.TLB_CONFLICT: TlbConflict,
    Status.ADDRESS_SIZE_FAULT: AddressSizeFault,
    Status.BANK_BLOCKED: BankBlocked,
    Status.STREAM_FAULT: StreamFault,
    Status.UNRESOLVED_FAULT: UnresolvedFault,
    # Between nodes only; a node that lets it out as a verdict has given up on the page.
    Status.PAGE_PENDING: UnresolvedFault,
}

_OTHER: Mapping[int, tuple[type[UnimemError], str]] = {
    Status.ACCESS_DENIED: (AccessDenied, "the node knows no such protection domain"),
    Status.STALE_ROUTE: (StaleRoute, "the node no longer owns the address"),
    Status.NO_ROUTE: (NoRoute, "no node owns the address"),
    Status.BAD_CRC: (CorruptPacket, "a packet arrived damaged"),
    Status.SEQUENCE_GAP: (CorruptPacket, "a packet arrived out of sequence"),
    Status.MALFORMED: (MalformedRequest, "no engine accepts this operation, length or alignment"),
    Status.MISALIGNED: (MalformedRequest, "an atomic needs an address that is a multiple of its size"),
    Status.PEER_LOST: (PeerLost, "the connection broke with the operation under way"),
    Status.PEER_UNREACHABLE: (PeerUnreachable, "the node could not be reached"),
    Status.NO_CONTEXT_BANK: (NoContextBank, "every context bank of the SMMU is taken"),
    Status.CANCELLED: (Cancelled, "cancelled"),
    Status.TIMED_OUT: (DeadlineExceeded, "the node gave up waiting"),
    Status.MAILBOX_FULL: (MailboxFull, "the mailbox is full"),
    # Between nodes only.
    Status.OUT_OF_ORDER: (CorruptPacket, "something that had to come before it is missing"),
}


def completion_error(
    row: np.void, *, op: str, gva: int | None, node: str | None = None, note: str = ""
) -> UnimemError:
    """The exception for a COMPLETION row whose status is not OK.

    `op`, `gva`: of the operation, as the caller wrote it. `node`: name of the node that refused. `note`: what
    the port knows about a failure of its own; it takes the place of the general words.
    """
    code = int(row["status"])
    definite = bool(int(row["flags"]) & CompletionFlags.DEFINITE)
    try:
        reason = Status(code).name
    except ValueError:  # a newer node
        reason = f"STATUS_{code}"
    smmu = _SMMU.get(code)
    if smmu is not None:
        access = "write" if row["access"] else "read"
        side = "source" if int(row["side"]) == Side.SOURCE else "target"
        stage, level = int(row["stage"]), int(row["level"])
        stream_id, iova = int(row["stream_id"]), int(row["iova"])
        return smmu(
            f"{access} refused by the {side}'s SMMU: {smmu.WORDS} at stage {stage}, level {level}"
            f" (stream {stream_id:#x}, IOVA {fmt(iova)})",
            stage=stage,
            level=level,
            access=access,
            stream_id=stream_id,
            iova=iova,
            side=side,
            context_bank=int(row["context_bank"]),
            fsr=int(row["fsr"]),
            fsynr0=int(row["fsynr0"]),
            op=op,
            gva=gva,
            node=node,
            reason=reason,
            definite=definite,
        )
    kind, words = _OTHER.get(code, (TransferError, f"unknown status {code}"))
    if note and kind is AccessDenied:  # found by the port: the node refused the session, not the access
        kind = SessionExpired
    return kind(note or words, op=op, gva=gva, node=node, reason=reason, definite=definite)


#: Reasons of google.rpc.ErrorInfo (domain "unimem") that have a class of their own.
_REASONS: Mapping[str, type[UnimemError]] = {
    **{
        kind.REASON: kind
        for kind in (
            AccessDenied, SessionExpired, NoRoute, StaleRoute, UnknownRegion, UnknownNode, NodeLost, NoSpace,
            NameTaken, PeerLost, PeerUnreachable, NoContextBank, DeadlineExceeded,
        )
    },
    "NOT_REGION_BASE": UnknownRegion,
    "NO_NODES": NodeLost,
    "NODE_UNREACHABLE": PeerUnreachable,
    "NO_WINDOW": NoSpace,
    "NO_DOMAIN": NoSpace,
    "REGION_LOST": StaleRoute,
    "BAD_LENGTH": UsageError,
    "BAD_ADDRESS": AddressError,
    "UNAUTHENTICATED": SessionExpired,
}  # fmt: skip


#: The client's verb for each control request.
_VERBS: Mapping[str, str] = {
    "ListNodesRequest": "nodes",
    "OpenSessionRequest": "connect",
    "CloseSessionRequest": "close",
    "AllocateRegionRequest": "alloc",
    "FreeRegionRequest": "free",
    "ShareRegionRequest": "share",
    "ResolveAddressRequest": "resolve",
    "ListRegionsRequest": "regions",
}


def operation_of(request: Message) -> str:
    """The client's verb that sends `request`."""
    name = type(request).__name__
    return _VERBS.get(name, name.removesuffix("Request"))


def refusal(
    request: Message,
    reason: str,
    message: str,
    *,
    definite: bool = True,
    metadata: Mapping[str, str] | None = None,
) -> UnimemError:
    """The exception for a control `request` refused with `reason` (that of ErrorInfo) and `message`.

    Operation, address and node are taken from the request, else the node from ErrorInfo's `metadata`.
    Reasons without a class of their own become `ControlError` with that `reason`; those that start with BAD_
    or INVALID_ are `UsageError`. `metadata["hint"]`, when there, takes the place of the class' own hint.
    """
    metadata = metadata or {}
    fallback = UsageError if reason.startswith(("BAD_", "INVALID_")) else ControlError
    return _REASONS.get(reason, fallback)(
        message.rstrip("."),
        op=operation_of(request),
        gva=getattr(request, "gva", 0) or None,
        node=getattr(request, "node", "") or metadata.get("node"),
        reason=reason,
        hint=metadata.get("hint", ""),
        definite=definite,
    )
