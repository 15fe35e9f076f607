"""One-sided access to a global virtual address space over many simulated ARMv8 MPSoCs.

    import numpy as np, unimem

    with unimem.connect("localhost:7400") as um:
        frames = um.array((1024, 1024), "f4", node="n2")
        frames[17] = np.arange(1024)
        um.put(frames.ptr, b"bytes")
        print(um.get(frames.ptr, 5).tobytes())

`connect` gives a `Client`, `connect_async` an `AsyncClient` with the same verbs. `unimem.errors` draws the
tree of what can go wrong; `unimem.verbs` has work requests and completion queues.
"""

from typing import TYPE_CHECKING

from unimem._arguments import ACCEPTED, DELIVERED, SOURCE, At
from unimem._connect import connect, connect_async
from unimem._port import AsyncPort, Batch, Port, Work
from unimem.addresses import fmt, parse_address
from unimem.array import AsyncGlobalArray, GlobalArray
from unimem.batching import AsyncOperationBatch, OperationBatch
from unimem.client import Client
from unimem.cluster import Grant, NodeInfo, RegionInfo, Resolved, Rights
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
    OutOfBounds,
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
    TransportError,
    UnimemError,
    UnknownNode,
    UnknownRegion,
    UnresolvedFault,
    UsageError,
)
from unimem.mailbox import Mailbox
from unimem.pointers import GlobalPtr
from unimem.transfer import Transfer

if TYPE_CHECKING:
    from unimem.async_client import AsyncClient
    from unimem.async_mailbox import AsyncMailbox

__version__ = "0.1.0"

__all__ = [
    "ACCEPTED",
    "DELIVERED",
    "SOURCE",
    "AccessDenied",
    "AccessFlagFault",
    "AddressError",
    "AddressSizeFault",
    "AsyncClient",
    "AsyncGlobalArray",
    "AsyncMailbox",
    "AsyncOperationBatch",
    "AsyncPort",
    "At",
    "BankBlocked",
    "Batch",
    "Cancelled",
    "Client",
    "ControlError",
    "CorruptPacket",
    "DeadlineExceeded",
    "ExternalAbort",
    "GlobalArray",
    "GlobalPtr",
    "Grant",
    "Mailbox",
    "MailboxFull",
    "MalformedRequest",
    "NameTaken",
    "NoContextBank",
    "NoRoute",
    "NoSpace",
    "NodeInfo",
    "NodeLost",
    "OperationBatch",
    "OutOfBounds",
    "PeerLost",
    "PeerUnreachable",
    "PermissionFault",
    "Port",
    "RegionInfo",
    "Resolved",
    "Rights",
    "SessionExpired",
    "SmmuFault",
    "StaleRoute",
    "StreamFault",
    "TlbConflict",
    "Transfer",
    "TransferError",
    "TranslationFault",
    "TransportError",
    "UnimemError",
    "UnknownNode",
    "UnknownRegion",
    "UnresolvedFault",
    "UsageError",
    "Work",
    "connect",
    "connect_async",
    "fmt",
    "parse_address",
]


if not TYPE_CHECKING:

    def __getattr__(name):
        # asyncio costs a blocking program 50 ms: it is imported by whoever uses it.
        if name == "AsyncClient":
            from unimem.async_client import AsyncClient  # noqa: PLC0415

            return AsyncClient
        if name == "AsyncMailbox":
            from unimem.async_mailbox import AsyncMailbox  # noqa: PLC0415

            return AsyncMailbox
        raise AttributeError(f"module 'unimem' has no attribute {name!r}")
