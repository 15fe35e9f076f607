"""gRPC errors to the tree of `unimem.errors`, by google.rpc.ErrorInfo where the server sends one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from unimem._failures import operation_of, refusal
from unimem.errors import (
    AccessDenied,
    ControlError,
    DeadlineExceeded,
    NoSpace,
    TransportError,
    UnimemError,
    UsageError,
)

if TYPE_CHECKING:
    from google.protobuf.message import Message

#: ErrorInfo's domain for reasons of ours.
DOMAIN: Final = "unimem"

#: Requests that change nothing: a lost answer is no doubt about what happened.
_READ_ONLY: Final = ("ListNodesRequest", "ListRegionsRequest", "ResolveAddressRequest")

_BY_CODE: Final[Mapping[grpc.StatusCode, type[UnimemError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: UsageError,
    grpc.StatusCode.OUT_OF_RANGE: UsageError,
    grpc.StatusCode.PERMISSION_DENIED: AccessDenied,
    grpc.StatusCode.UNAUTHENTICATED: AccessDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: NoSpace,
}


def error_info(error: grpc.aio.AioRpcError) -> tuple[str, dict[str, str]]:
    """(reason, metadata) of the error's ErrorInfo of our domain, or ("", {})."""
    trailing: Any = error.trailing_metadata() or ()
    for key, value in trailing:
        if key == "grpc-status-details-bin":
            info = error_details_pb2.ErrorInfo()
            try:
                for detail in status_pb2.Status.FromString(value).details:
                    if detail.Unpack(info) and info.domain == DOMAIN:
                        return info.reason, dict(info.metadata)
            except DecodeError:
                break
    return "", {}


def control_error(request: Message, error: grpc.aio.AioRpcError, endpoint: str) -> UnimemError:
    """The exception for a control call that failed."""
    reason, metadata = error_info(error)
    code, text = error.code(), error.details() or ""
    definite = type(request).__name__ in _READ_ONLY
    if reason:
        return refusal(request, reason, text, metadata=metadata)
    op, gva = operation_of(request), getattr(request, "gva", 0) or None
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(
            f"no answer from the coordinator at {endpoint}", op=op, gva=gva, definite=definite
        )
    if code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}:
        return TransportError(
            f"the connection to the coordinator at {endpoint} broke: {text}",
            op=op,
            gva=gva,
            definite=definite,
        )
    if code == grpc.StatusCode.UNIMPLEMENTED:
        return TransportError(
            f"{endpoint} answers, but not as a unimem coordinator",
            op=op,
            hint="give the coordinator's address, not a node's",
            retryable=False,
        )
    kind = _BY_CODE.get(code, ControlError)
    return kind(f"the coordinator refused: {text}", op=op, gva=gva, reason=code.name)
