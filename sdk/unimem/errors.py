"""Everything that can go wrong, as one tree, ordered by whose move it is.

::

    UnimemError
    ├── UsageError (ValueError)         the arguments; nothing was done, most are seen before anything is sent
    │   └── OutOfBounds (IndexError)    a pointer or an index that leaves its region or array
    ├── AddressError                    there is no such memory
    │   ├── NoRoute                     no node owns the address
    │   ├── StaleRoute                  the node no longer owns it (it restarted, or the region moved)
    │   └── UnknownRegion               no region there: never allocated, freed, or not its base
    ├── AccessDenied (PermissionError)  the address is somebody's, but not yours
    │   └── SessionExpired              the session ended: connect again
    ├── ControlError                    the coordinator understood and said no
    │   ├── UnknownNode
    │   ├── NodeLost                    the node's lease ran out
    │   ├── NoSpace                     the node's memory, or its window, is full
    │   └── NameTaken                   the domain has a region of that name
    ├── TransportError (ConnectionError)
    │   ├── PeerLost                    the connection broke with the operation under way
    │   └── PeerUnreachable             never connected: nothing was sent
    ├── DeadlineExceeded (TimeoutError)
    └── TransferError                   a node took the request and could not carry it out
        ├── Cancelled
        ├── CorruptPacket               CRC or sequence
        ├── MalformedRequest            an operation, length or alignment that no engine accepts
        ├── NoContextBank               every context bank of the SMMU is taken
        ├── MailboxFull                 the owner of the mailbox takes nothing out, and it is full
        └── SmmuFault                   an SMMU refused the access; the syndrome is in the attributes
            ├── TranslationFault        nothing is mapped there for this protection domain
            ├── PermissionFault         mapped, but not for this kind of access
            ├── AccessFlagFault         mapped with AF = 0
            ├── AddressSizeFault        an address wider than the SMMU's
            ├── TlbConflict             two TLB entries for one address
            ├── ExternalAbort           a descriptor, or the page, lies where there is no memory
            ├── BankBlocked             a stalled transaction holds up the context bank
            ├── UnresolvedFault         a page fault was handled again and again, and stayed
            └── StreamFault             the engine's stream has no (or more than one) stream mapping

Every error has `op`, `gva`, `node`, `reason`, `hint`, `definite` and `retryable`. `definite` answers the
question that a one-sided write raises: True = it certainly did not happen, not even in part. An injected
fault raises the same class as an organic one.
"""

# ruff: noqa: N818 - the names are the specification's: a fault is called a fault

from __future__ import annotations

from typing import ClassVar

from unimem.addresses import fmt


class UnimemError(Exception):
    """Any error of this package.

    `op`: the verb. `gva`: the global virtual address concerned, or None. `node`: the name of the node that
    refused or was asked, or None. `reason`: a stable UPPER_CASE word, the one on the wire where it came from
    there. `hint`: the way out. `definite`: it certainly did not happen. `retryable`: the same call, made
    again, may succeed.
    """

    REASON: ClassVar[str] = "ERROR"
    HINT: ClassVar[str] = ""
    RETRYABLE: ClassVar[bool] = False

    def __init__(
        self,
        problem: str,
        *,
        op: str = "",
        gva: int | None = None,
        node: str | None = None,
        reason: str = "",
        hint: str = "",
        definite: bool = True,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.op = op
        self.gva = gva
        self.node = node or None
        self.reason = reason or self.REASON
        self.hint = hint or self.HINT
        self.definite = definite
        self.retryable = self.RETRYABLE if retryable is None else retryable

    def __str__(self) -> str:
        where = " ".join(
            part
            for part in (
                self.op,
                f"at {fmt(self.gva)}" if self.gva is not None else "",
                f"on {self.node}" if self.node else "",
            )
            if part
        )
        text = f"{where}: {self.problem}" if where else self.problem
        if not self.definite:
            text += "; it may have happened, in whole or in part"
        return f"{text}. Hint: {self.hint}." if self.hint else text


class UsageError(UnimemError, ValueError):
    """Arguments that cannot work. Nothing was done; what the SDK sees is refused before anything is sent."""

    REASON = "USAGE"


class OutOfBounds(UsageError, IndexError):
    """A pointer or an index that leaves its region or array."""

    REASON = "OUT_OF_BOUNDS"


class AddressError(UnimemError):
    """There is no such memory."""

    REASON = "BAD_ADDRESS"


class NoRoute(AddressError):
    """No node owns the address."""

    REASON = "NO_ROUTE"
    HINT = "nodes() lists the windows; the node may not have joined yet"


class StaleRoute(AddressError):
    """The node no longer owns the address: it restarted (its DRAM is gone) or the region moved."""

    REASON = "STALE_ROUTE"
    HINT = "resolve() the address again; a region on a node that restarted is lost"
    RETRYABLE = True


class UnknownRegion(AddressError):
    """No region there: never allocated, freed, or the address is not the region's base."""

    REASON = "UNKNOWN_REGION"
    HINT = "regions() lists those that exist"


class AccessDenied(UnimemError, PermissionError):
    """The address is somebody's, but not this protection domain's."""

    REASON = "ACCESS_DENIED"
    HINT = "the owner can share() the region with your domain"


class SessionExpired(AccessDenied):
    """The coordinator, or the home node after a restart, does not know this session any more."""

    REASON = "SESSION_EXPIRED"
    HINT = "connect() again"


class ControlError(UnimemError):
    """The coordinator understood the call and said no."""

    REASON = "REFUSED"


class UnknownNode(ControlError):
    """No node of that name has joined."""

    REASON = "UNKNOWN_NODE"
    HINT = "nodes() lists those that have joined"


class NodeLost(ControlError):
    """The node's lease ran out, or it left."""

    REASON = "NODE_LOST"
    HINT = "use another node, or wait for its return; nodes() shows the states"
    RETRYABLE = True


class NoSpace(ControlError):
    """The node's memory, or its window of the address space, is full."""

    REASON = "NO_SPACE"
    HINT = "free() regions or allocate on another node"


class NameTaken(ControlError):
    """The domain already has a region of that name."""

    REASON = "NAME_TAKEN"
    HINT = "choose another name, or find the existing one with regions(domain=...)"


class TransportError(UnimemError, ConnectionError):
    """A connection could not be made or broke."""

    REASON = "TRANSPORT"
    RETRYABLE = True


class PeerLost(TransportError):
    """The connection broke with the operation under way."""

    REASON = "PEER_LOST"
    HINT = "nodes() shows whether it is coming back; read back what you wrote unless the error is definite"


class PeerUnreachable(TransportError):
    """No connection could be made: nothing was sent."""

    REASON = "PEER_UNREACHABLE"
    HINT = "nodes() shows its state and address; `unimem status` shows how each node is reached"


class DeadlineExceeded(UnimemError, TimeoutError):
    """Not done in time. A write may still arrive; the buffer of a get is not touched any more."""

    REASON = "DEADLINE_EXCEEDED"
    HINT = "pass timeout= for a longer deadline"
    RETRYABLE = True


class TransferError(UnimemError):
    """A node took the request and could not carry it out."""

    REASON = "TRANSFER_FAILED"


class Cancelled(TransferError):
    """Taken back by `Transfer.cancel`, or by closing the client."""

    REASON = "CANCELLED"


class CorruptPacket(TransferError):
    """A packet arrived damaged (CRC) or out of sequence, and was refused."""

    REASON = "BAD_CRC"
    RETRYABLE = True


class MalformedRequest(TransferError):
    """An operation, a length or an alignment that no engine accepts."""

    REASON = "MALFORMED"
    HINT = (
        "atomics work on 4 or 8 bytes at a multiple of their size;"
        " other lengths are 1 byte or more within one region"
    )


class NoContextBank(TransferError):
    """Every context bank of the SMMU is taken by other protection domains."""

    REASON = "NO_CONTEXT_BANK"
    HINT = "close clients of other domains, or share a domain (connect(domain=...))"
    RETRYABLE = True


class MailboxFull(TransferError):
    """The mailbox was full each time the message was offered: its owner takes nothing out."""

    REASON = "MAILBOX_FULL"
    HINT = "receive() at its owner, give it more slots=, or send again later"
    RETRYABLE = True


class SmmuFault(TransferError):
    """An SMMU refused the access.

    `stage` and `level` of the walk, `access` ("read" or "write"), `stream_id` of the engine, `iova` (FAR),
    `side` ("source" or "target": whose SMMU), `context_bank`, `fsr`, `fsynr0` as that SMMU recorded them.
    """

    REASON = "SMMU_FAULT"
    WORDS: ClassVar[str] = "fault"

    def __init__(
        self,
        problem: str,
        *,
        stage: int = 1,
        level: int = 0,
        access: str = "read",
        stream_id: int = 0,
        iova: int = 0,
        side: str = "target",
        context_bank: int = 0,
        fsr: int = 0,
        fsynr0: int = 0,
        op: str = "",
        gva: int | None = None,
        node: str | None = None,
        reason: str = "",
        hint: str = "",
        definite: bool = True,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(
            problem,
            op=op,
            gva=gva,
            node=node,
            reason=reason,
            hint=hint,
            definite=definite,
            retryable=retryable,
        )
        self.stage = stage
        self.level = level
        self.access = access
        self.stream_id = stream_id
        self.iova = iova
        self.side = side
        self.context_bank = context_bank
        self.fsr = fsr
        self.fsynr0 = fsynr0


class TranslationFault(SmmuFault):
    """Nothing is mapped there for this protection domain (FSR.TF)."""

    REASON = "TRANSLATION_FAULT"
    HINT = "allocate a region there, or have its owner share() it with your domain"
    WORDS = "translation fault"


class PermissionFault(SmmuFault):
    """Mapped, but not for this kind of access (FSR.PF)."""

    REASON = "PERMISSION_FAULT"
    HINT = 'the owner can grant it: share(ptr, domain=..., rights="rw")'
    WORDS = "permission fault"


class AccessFlagFault(SmmuFault):
    """Mapped with AF = 0 and nobody to set it (FSR.AFF)."""

    REASON = "ACCESS_FLAG_FAULT"
    HINT = "the page's access flag is clear: software on the node has to touch it first"
    WORDS = "access flag fault"


class AddressSizeFault(SmmuFault):
    """An address, in a descriptor or put out by the walk, wider than the SMMU's (FSR.ASF)."""

    REASON = "ADDRESS_SIZE_FAULT"
    HINT = "a descriptor on the node holds an address wider than the SMMU's output size"
    WORDS = "address size fault"


class ExternalAbort(SmmuFault):
    """A descriptor, or the page itself, lies where there is no memory (FSR.EF)."""

    REASON = "EXTERNAL_ABORT"
    HINT = "a page table on the node points outside its DRAM"
    WORDS = "external abort"


class TlbConflict(SmmuFault):
    """Two TLB entries translate the address (FSR.TLBMCF)."""

    REASON = "TLB_CONFLICT"
    HINT = "a table on the node was changed without break-before-make: invalidate the TLB between the two"
    WORDS = "TLB match conflict"


class BankBlocked(SmmuFault):
    """A stalled transaction holds up everything of the context bank (SCTLR.CFCFG = 1, HUPCF = 0)."""

    REASON = "BANK_BLOCKED"
    HINT = "software on the node has to write RESUME of that context bank first"
    WORDS = "context bank blocked by a stalled transaction"


class UnresolvedFault(SmmuFault):
    """The node's fault policy said again and again that the page was there, and the access faulted again."""

    REASON = "UNRESOLVED_FAULT"
    HINT = (
        "the node evicts the page as fast as it brings it in, or its fault policy never makes it accessible:"
        " pin the memory, move less at once, or choose another policy"
    )
    RETRYABLE = True
    WORDS = "page fault that stayed however often it was handled"


class StreamFault(SmmuFault):
    """The engine's stream matches no stream mapping, or more than one, or one that says fault (sGFSR)."""

    REASON = "STREAM_FAULT"
    HINT = "no stream mapping leads the engine's stream ID to a context bank"
    WORDS = "stream fault"
