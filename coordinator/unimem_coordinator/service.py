"""`unimem.v1.CoordinatorService` on grpc.aio: a message to the shell, a message or a refusal back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn

import grpc
import grpc.aio
import structlog
from google.protobuf import any_pb2, message_factory
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from unimem.v1 import coordinator_pb2 as pb
from unimem_coordinator.api import routes_message
from unimem_coordinator.errors import CoordinatorError, Reason, StoreError
from unimem_coordinator.shell import Shell

log = structlog.get_logger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

#: Full name of the service.
SERVICE: Final = pb.DESCRIPTOR.services_by_name["CoordinatorService"].full_name

_CODES: Final = {
    Reason.BAD_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.BAD_ADDRESS: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.BAD_LENGTH: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.BAD_NAME: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.BAD_RIGHTS: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.NOT_REGION_BASE: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.NAME_TAKEN: grpc.StatusCode.ALREADY_EXISTS,
    Reason.UNKNOWN_NODE: grpc.StatusCode.NOT_FOUND,
    Reason.UNKNOWN_REGION: grpc.StatusCode.NOT_FOUND,
    Reason.UNKNOWN_DOMAIN: grpc.StatusCode.NOT_FOUND,
    Reason.REGION_LOST: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.ACCESS_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    Reason.SESSION_EXPIRED: grpc.StatusCode.UNAUTHENTICATED,
    Reason.LEASE_EXPIRED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.NODE_REPLACED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.NO_SPACE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.NO_WINDOW: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.NO_DOMAIN: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.NO_NODES: grpc.StatusCode.UNAVAILABLE,
    Reason.NODE_LOST: grpc.StatusCode.UNAVAILABLE,
    Reason.NODE_UNREACHABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.NODE_REFUSED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.STORE_FAILED: grpc.StatusCode.UNAVAILABLE,
    Reason.STOPPING: grpc.StatusCode.UNAVAILABLE,
    Reason.INTERNAL: grpc.StatusCode.INTERNAL,
}
assert set(_CODES) == set(Reason)


async def refuse(context: Context, error: CoordinatorError) -> NoReturn:
    """End a call with the status and the `google.rpc.ErrorInfo` of `error`."""
    code = _CODES[error.reason]
    info = error_details_pb2.ErrorInfo(reason=error.reason.value, domain="unimem", metadata=error.metadata)
    detail = any_pb2.Any()
    detail.Pack(info)
    status = status_pb2.Status(code=code.value[0], message=error.message, details=[detail])
    await context.abort(
        code, error.message, trailing_metadata=(("grpc-status-details-bin", status.SerializeToString()),)
    )


def handlers(shell: Shell) -> grpc.GenericRpcHandler[Any, Any]:
    """The service's methods, to add to a server."""
    found: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    for method in pb.DESCRIPTOR.services_by_name["CoordinatorService"].methods:
        request_type = message_factory.GetMessageClass(method.input_type)
        if method.server_streaming:
            found[method.name] = grpc.unary_stream_rpc_method_handler(_watch(shell, request_type))
        else:
            found[method.name] = grpc.unary_unary_rpc_method_handler(_unary(shell, request_type))
    return grpc.method_handlers_generic_handler(SERVICE, found)


def _unary(shell: Shell, request_type: type[Message]) -> Callable[[bytes, Context], Awaitable[bytes]]:
    async def answer(raw: bytes, context: Context) -> bytes:
        request = await _parsed(raw, request_type, context)
        try:
            response = await shell.call(request)
        except CoordinatorError as error:
            log.info("refused", call=request.DESCRIPTOR.name, reason=error.reason.value, text=error.message)
            await refuse(context, error)
        except StoreError as error:
            log.error("store failed", call=request.DESCRIPTOR.name, text=str(error))
            await refuse(context, CoordinatorError(Reason.STORE_FAILED, f"nothing was changed: {error}"))
        except Exception as error:
            log.exception("call failed", call=request.DESCRIPTOR.name)
            await refuse(context, CoordinatorError(Reason.INTERNAL, f"{type(error).__name__}: {error}"))
        return response.SerializeToString()

    return answer


def _watch(shell: Shell, request_type: type[Message]) -> Callable[[bytes, Context], Awaitable[None]]:
    async def watch(raw: bytes, context: Context) -> None:
        request = await _parsed(raw, request_type, context)
        assert isinstance(request, pb.WatchRoutesRequest)
        # A slow reader holds up only this loop: what it missed meanwhile it gets as one table.
        async for table in shell.watch(request.known_epoch):
            await context.write(routes_message(table).SerializeToString())
        await refuse(context, CoordinatorError(Reason.STOPPING, "the coordinator is stopping"))

    return watch


async def _parsed(raw: bytes, request_type: type[Message], context: Context) -> Message:
    try:
        return request_type.FromString(raw)
    except DecodeError:
        name = request_type.DESCRIPTOR.full_name
        await refuse(context, CoordinatorError(Reason.BAD_ARGUMENT, f"these {len(raw)} bytes are no {name}"))
