"""`DmaService.Transfer`: work requests in, completions out.

The stream's metadata names a protection domain and shows a session's token; every request of the stream is
made for that domain, whatever it says itself. Closing one's side ends the stream once everything is
answered.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from unimem.v1 import node_pb2
from unimem.wire import FrameError
from unimem_node.service.rpc import EOF, Refusal, metadata_of, stream_service
from unimem_node.service.transfer import TransferStream

if TYPE_CHECKING:
    from unimem_node.service.host import NodeHost


class DmaService:
    """The one method."""

    def __init__(self, host: NodeHost) -> None:
        self._host = host

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """For `grpc.aio.Server.add_generic_rpc_handlers`."""
        return stream_service(node_pb2.DESCRIPTOR.services_by_name["DmaService"], {"Transfer": self.transfer})

    async def transfer(self, _: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """One stream of one session."""
        domain, session = self._host.domains.admit(metadata_of(context))
        stream = TransferStream(self._host, domain)
        session.add(stream)
        writer = asyncio.create_task(stream.write_to(context.write))
        try:
            # The client need not post first to learn that it is let in.
            await context.send_initial_metadata((("unimem-node", self._host.node.name),))
            while (message := await context.read()) is not EOF:
                await stream.take(message)
            await stream.drained()
        except FrameError as error:
            raise Refusal(
                grpc.StatusCode.INVALID_ARGUMENT,
                "MALFORMED_FRAME",
                str(error),
                pdid=domain.pdid,
                node=self._host.node.name,
            ) from error
        except asyncio.CancelledError:
            if stream.why is None:  # by gRPC: the client is gone
                raise
            raise stream.why from None
        finally:
            writer.cancel()
            session.discard(stream)
            stream.leave()
