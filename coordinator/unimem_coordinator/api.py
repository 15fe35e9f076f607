"""The calls of `unimem.v1.CoordinatorService` as changes of the core: request message in, response out.

No I/O here either: the gRPC service and a simulation's port answer with the same code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from google.protobuf.message import Message

from unimem.v1 import coordinator_pb2 as pb
from unimem.v1 import types_pb2
from unimem_coordinator import limits
from unimem_coordinator.core import Coordinator
from unimem_coordinator.errors import CoordinatorError, Reason
from unimem_coordinator.rows import NodeState
from unimem_coordinator.values import Change, NodeInfo, RegionInfo, RouteTable

_STATES: Final = {
    NodeState.UP: types_pb2.NODE_STATE_UP,
    NodeState.LOST: types_pb2.NODE_STATE_LOST,
    NodeState.LEFT: types_pb2.NODE_STATE_LEFT,
}

_RIGHTS: Final = {
    limits.RIGHTS_READ: types_pb2.RIGHTS_READ,
    limits.RIGHTS_READ_WRITE: types_pb2.RIGHTS_READ_WRITE,
}


def answer(core: Coordinator, request: Message, now_ns: int) -> Change[Message]:
    """The response to any unary request of the service; raises `CoordinatorError`."""
    kind = type(request)
    if kind in _PLAIN:
        return _PLAIN[kind](core, request, now_ns)
    if kind in _CHANGES:
        return (yield from _CHANGES[kind](core, request, now_ns))
    raise CoordinatorError(
        Reason.BAD_ARGUMENT, f"{request.DESCRIPTOR.full_name} is no unary request to a coordinator"
    )


def node_message(node: NodeInfo) -> types_pb2.Node:
    """`unimem.v1.Node`."""
    return types_pb2.Node(
        name=node.name,
        index=node.index,
        address=node.address,
        state=_STATES[node.state],
        window_base=node.window.start,
        window_size=len(node.window),
        incarnation=node.incarnation,
        platform=node.platform,
        memory_bytes=node.memory_bytes,
    )


def region_message(region: RegionInfo) -> types_pb2.Region:
    """`unimem.v1.Region`."""
    return types_pb2.Region(
        gva=region.gva,
        length=region.length,
        node=region.node,
        pdid=region.pdid,
        name=region.name,
        state=types_pb2.REGION_STATE_LOST if region.lost else types_pb2.REGION_STATE_ACTIVE,
        grants=[
            types_pb2.Grant(pdid=grant.pdid, rights=_RIGHTS[grant.rights], domain=grant.domain)
            for grant in region.grants
        ],
    )


def routes_message(table: RouteTable) -> pb.WatchRoutesResponse:
    """`unimem.v1.WatchRoutesResponse`."""
    return pb.WatchRoutesResponse(epoch=table.epoch, nodes=[node_message(node) for node in table.nodes])


def _register_node(core: Coordinator, q: pb.RegisterNodeRequest, now_ns: int) -> pb.RegisterNodeResponse:
    found = core.register_node(
        q.name,
        address=q.address,
        platform=q.platform,
        memory_bytes=q.memory_bytes,
        boot_id=q.boot_id,
        now_ns=now_ns,
    )
    return pb.RegisterNodeResponse(
        node=node_message(found.node),
        lease_token=found.lease_token,
        lease_ttl_ns=found.lease_ttl_ns,
        epoch=found.epoch,
    )


def _renew_lease(core: Coordinator, q: pb.RenewLeaseRequest, now_ns: int) -> pb.RenewLeaseResponse:
    lease = core.renew(q.name, q.lease_token, now_ns)
    return pb.RenewLeaseResponse(lease_ttl_ns=lease.ttl_ns, epoch=lease.epoch)


def _deregister_node(
    core: Coordinator, q: pb.DeregisterNodeRequest, _now_ns: int
) -> pb.DeregisterNodeResponse:
    core.deregister(q.name, q.lease_token)
    return pb.DeregisterNodeResponse()


def _list_nodes(core: Coordinator, _q: pb.ListNodesRequest, _now_ns: int) -> pb.ListNodesResponse:
    table = core.routes()
    return pb.ListNodesResponse(nodes=[node_message(node) for node in table.nodes], epoch=table.epoch)


def _renew_session(core: Coordinator, q: pb.RenewSessionRequest, now_ns: int) -> pb.RenewSessionResponse:
    return pb.RenewSessionResponse(session_ttl_ns=core.renew_session(q.session_id, q.token, now_ns))


def _resolve(core: Coordinator, q: pb.ResolveAddressRequest, _now_ns: int) -> pb.ResolveAddressResponse:
    found = core.resolve(q.gva)
    return pb.ResolveAddressResponse(
        region=region_message(found.region), node=node_message(found.node), va=found.va
    )


def _list_regions(core: Coordinator, q: pb.ListRegionsRequest, _now_ns: int) -> pb.ListRegionsResponse:
    found = core.regions(q.node, q.domain)
    return pb.ListRegionsResponse(regions=[region_message(region) for region in found])


def _open_session(core: Coordinator, q: pb.OpenSessionRequest, now_ns: int) -> Change[Message]:
    session = yield from core.open_session(q.home, q.domain, now_ns)
    return pb.OpenSessionResponse(
        session_id=session.session_id,
        token=session.token,
        pdid=session.pdid,
        home=node_message(session.home),
        session_ttl_ns=session.ttl_ns,
        domain=session.domain,
    )


def _close_session(core: Coordinator, q: pb.CloseSessionRequest, _now_ns: int) -> Change[Message]:
    yield from core.close_session(q.session_id, q.token)
    return pb.CloseSessionResponse()


def _allocate(core: Coordinator, q: pb.AllocateRegionRequest, _now_ns: int) -> Change[Message]:
    region = yield from core.allocate(q.session_id, q.token, q.node, q.length, q.name)
    return pb.AllocateRegionResponse(region=region_message(region))


def _free(core: Coordinator, q: pb.FreeRegionRequest, _now_ns: int) -> Change[Message]:
    yield from core.free(q.session_id, q.token, q.gva)
    return pb.FreeRegionResponse()


def _share(core: Coordinator, q: pb.ShareRegionRequest, _now_ns: int) -> Change[Message]:
    region = yield from core.share(
        q.session_id, q.token, q.gva, domain=q.domain, pdid=q.pdid, rights=q.rights
    )
    return pb.ShareRegionResponse(region=region_message(region))


_PLAIN: Final[dict[type[Message], Callable[[Coordinator, Any, int], Message]]] = {
    pb.RegisterNodeRequest: _register_node,
    pb.RenewLeaseRequest: _renew_lease,
    pb.DeregisterNodeRequest: _deregister_node,
    pb.ListNodesRequest: _list_nodes,
    pb.RenewSessionRequest: _renew_session,
    pb.ResolveAddressRequest: _resolve,
    pb.ListRegionsRequest: _list_regions,
}

_CHANGES: Final[dict[type[Message], Callable[[Coordinator, Any, int], Change[Message]]]] = {
    pb.OpenSessionRequest: _open_session,
    pb.CloseSessionRequest: _close_session,
    pb.AllocateRegionRequest: _allocate,
    pb.FreeRegionRequest: _free,
    pb.ShareRegionRequest: _share,
}
