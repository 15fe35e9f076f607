"""What the coordinator answers when it says no, and what a node's silence or refusal looks like to it.

`Reason` is on the wire (`google.rpc.ErrorInfo.reason`, domain ``unimem``): the SDK chooses its exception by
it, so a reason, once published, keeps its meaning.
"""

from __future__ import annotations

from enum import Enum, StrEnum


class Reason(StrEnum):
    """Why a call was refused."""

    # The caller's arguments.
    BAD_ARGUMENT = "BAD_ARGUMENT"
    BAD_ADDRESS = "BAD_ADDRESS"
    BAD_LENGTH = "BAD_LENGTH"
    BAD_NAME = "BAD_NAME"
    BAD_RIGHTS = "BAD_RIGHTS"
    NOT_REGION_BASE = "NOT_REGION_BASE"
    NAME_TAKEN = "NAME_TAKEN"
    # What is asked for does not exist.
    UNKNOWN_NODE = "UNKNOWN_NODE"
    UNKNOWN_REGION = "UNKNOWN_REGION"
    UNKNOWN_DOMAIN = "UNKNOWN_DOMAIN"
    REGION_LOST = "REGION_LOST"
    # Not yours, or not any more.
    ACCESS_DENIED = "ACCESS_DENIED"
    SESSION_EXPIRED = "SESSION_EXPIRED"
    LEASE_EXPIRED = "LEASE_EXPIRED"
    NODE_REPLACED = "NODE_REPLACED"
    # Nothing left.
    NO_SPACE = "NO_SPACE"
    NO_WINDOW = "NO_WINDOW"
    NO_DOMAIN = "NO_DOMAIN"
    # Not now.
    NO_NODES = "NO_NODES"
    NODE_LOST = "NODE_LOST"
    NODE_UNREACHABLE = "NODE_UNREACHABLE"
    NODE_REFUSED = "NODE_REFUSED"
    STORE_FAILED = "STORE_FAILED"
    STOPPING = "STOPPING"
    INTERNAL = "INTERNAL"


class CoordinatorError(Exception):
    """A call that was refused: nothing acknowledged was changed by it.

    `message` says what is wrong with which value; `metadata` is ErrorInfo's: machine-readable details, and
    under ``hint`` the way out.
    """

    def __init__(self, reason: Reason, message: str, **metadata: object) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = {key: str(value) for key, value in metadata.items()}

    def __str__(self) -> str:
        hint = self.metadata.get("hint")
        return f"{self.reason}: {self.message}" + (f"; {hint}" if hint else "")


class FailureKind(Enum):
    """How a call to a node failed."""

    UNREACHABLE = "unreachable"  # no answer: it may or may not have been done
    REFUSED = "refused"  # answered: it was not done
    NO_MEMORY = "no memory"  # answered: no memory for it


class NodeFailure(Exception):  # noqa: N818 - it is thrown into a change as the outcome of an action
    """A node did not carry out an action."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class StoreError(Exception):
    """The store could not be opened, read or written; the message says which file and the way out."""
