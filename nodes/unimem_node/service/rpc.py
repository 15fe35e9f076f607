"""gRPC plumbing shared by the services: refusals with `google.rpc.ErrorInfo`, handlers over raw bytes.

Unary methods are plain functions from request to response message. The wrapper made here parses the request
(garbage is INVALID_ARGUMENT, not a stack trace), calls the function on the event loop, and turns what it
raises into a status: the model raises ValueError, MemoryError, BusError and faults, and knows nothing of
gRPC.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NoReturn

import grpc
import grpc.aio
import structlog
from google.protobuf import any_pb2, message_factory
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from unimem.addresses import fmt
from unimem_node.bus import BusError
from unimem_node.kernel.processes import KernelFault

#: The domain of every ErrorInfo of this project.
DOMAIN: Final = "unimem"

#: Largest message either way: a frame of 256 KiB blocks several times over, far from what a client could
#: exhaust us with.
MESSAGE_LIMIT: Final = 8 << 20

#: Options of every channel and server. Keepalive finds a peer whose machine or network is gone; a killed
#: process is seen at once by the reset of its connections.
CHANNEL_OPTIONS: Final[list[tuple[str, Any]]] = [
    ("grpc.max_send_message_length", MESSAGE_LIMIT),
    ("grpc.max_receive_message_length", MESSAGE_LIMIT),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]

#: What reading a stream gives at its end (the stubs do not know it).
EOF: Final[Any] = vars(grpc.aio)["EOF"]

log = structlog.get_logger(__name__)


class Refusal(Exception):  # noqa: N818 - a refusal is an answer
    """The answer to a call that will not be done: status code, a stable reason, words, and details."""

    def __init__(self, code: grpc.StatusCode, reason: str, text: str, **metadata: object) -> None:
        super().__init__(text)
        self.code, self.reason, self.text = code, reason, text
        self.metadata = {key: str(value) for key, value in metadata.items()}

    def trailer(self) -> tuple[tuple[str, bytes]]:
        """The trailing metadata that carries `google.rpc.Status` with the ErrorInfo."""
        info = error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=self.metadata)
        detail = any_pb2.Any()
        detail.Pack(info)
        status = status_pb2.Status(code=self.code.value[0], message=self.text, details=[detail])
        return (("grpc-status-details-bin", status.SerializeToString()),)

    async def abort(self, context: grpc.aio.ServicerContext[Any, Any]) -> NoReturn:
        """End the call with this answer."""
        await context.abort(self.code, self.text, self.trailer())


def refusal_of(error: Exception) -> Refusal:
    """What to answer when the model, or the parser of a message, raised `error`."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, DecodeError):
        return Refusal(
            grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE", f"not a message of this method: {error}"
        )
    if isinstance(error, KernelFault):
        return Refusal(
            grpc.StatusCode.FAILED_PRECONDITION,
            "CPU_FAULT",
            str(error),
            pdid=error.pdid,
            va=fmt(error.va),
            kind=error.kind,
        )
    if isinstance(error, BusError):
        return Refusal(
            grpc.StatusCode.OUT_OF_RANGE, f"BUS_{error.response}", str(error), address=fmt(error.address)
        )
    if isinstance(error, MemoryError):
        return Refusal(
            grpc.StatusCode.RESOURCE_EXHAUSTED, "NO_SPACE", str(error) or "the node's memory is full"
        )
    if isinstance(error, ValueError):
        return Refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", str(error))
    log.error("a method failed", exc_info=error)
    return Refusal(grpc.StatusCode.INTERNAL, "INTERNAL", f"{type(error).__name__}: {error}")


Unary = Callable[[Any], Any]
#: For a stream of answers the first argument is the request, for one in each direction it means nothing.
Stream = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[None]]


def unary_service(
    descriptor: ServiceDescriptor, methods: Mapping[str, Unary], streams: Mapping[str, Stream] | None = None
) -> grpc.GenericRpcHandler[Any, Any]:
    """A handler for the unary `methods` (name -> request to response) of the service in `descriptor`.

    `streams` are its methods that answer one request with many messages: bytes, written to the context.
    """
    handlers: dict[str, Any] = {}
    for method in descriptor.methods:
        request_class = message_factory.GetMessageClass(method.input_type)
        if streams and method.name in streams:
            handlers[method.name] = grpc.unary_stream_rpc_method_handler(
                _guard(_parsing(streams[method.name], request_class))
            )
        else:
            handlers[method.name] = grpc.unary_unary_rpc_method_handler(
                _answer(methods[method.name], request_class)
            )
    return grpc.method_handlers_generic_handler(descriptor.full_name, handlers)


def stream_service(
    descriptor: ServiceDescriptor, methods: Mapping[str, Stream], unary: Mapping[str, Unary] | None = None
) -> grpc.GenericRpcHandler[Any, Any]:
    """A handler for bidirectional streams of raw bytes; the methods read and write through the context.

    `unary` are its methods that answer one request with one message.
    """
    handlers: dict[str, Any] = {
        name: grpc.stream_stream_rpc_method_handler(_guard(method)) for name, method in methods.items()
    }
    for name, method in (unary or {}).items():
        request_class = message_factory.GetMessageClass(descriptor.methods_by_name[name].input_type)
        handlers[name] = grpc.unary_unary_rpc_method_handler(_answer(method, request_class))
    return grpc.method_handlers_generic_handler(descriptor.full_name, handlers)


def _answer(method: Unary, request_class: Any) -> Any:
    async def answer(raw: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        try:
            response: bytes = method(request_class.FromString(raw)).SerializeToString()
        except Exception as error:  # whatever it is, the service lives on
            await refusal_of(error).abort(context)
        return response

    return answer


def _parsing(method: Stream, request_class: Any) -> Stream:
    async def stream(raw: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await method(request_class.FromString(raw), context)

    return stream


def _guard(method: Stream) -> Any:
    async def stream(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        try:
            await method(request, context)
        except (grpc.aio.AbortError, grpc.aio.UsageError):
            raise
        except Exception as error:
            await refusal_of(error).abort(context)

    return stream


def metadata_of(context: grpc.aio.ServicerContext[Any, Any]) -> dict[str, str]:
    """The text metadata of a call; the last of several values counts."""
    found: dict[str, str] = {}
    metadata: Any = context.invocation_metadata()
    for key, value in metadata or ():
        if isinstance(value, str):
            found[key] = value
    return found


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The ErrorInfo reason of a failed call, or nothing."""
    metadata: Any = error.trailing_metadata()
    for key, value in metadata or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            status = status_pb2.Status.FromString(value)
            for detail in status.details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    return str(info.reason)
    return ""
