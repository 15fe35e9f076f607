from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import Message

from support.kernel_books import Machines
from support.small_cluster import counted_tokens
from unimem.v1 import coordinator_pb2 as pb
from unimem.v1 import types_pb2
from unimem_coordinator import Coordinator, CoordinatorError, DirectCoordinator, MemoryStore, Reason
from unimem_coordinator.core import SESSION_TTL_NS


class World:
    """One node, and a clock that is moved by hand."""

    def __init__(self) -> None:
        self.machines = Machines()
        self.now = 0
        core = Coordinator(MemoryStore(), new_token=counted_tokens())
        self.direct = DirectCoordinator(core, self.machines.perform, lambda: self.now)
        self.boot(1)

    def boot(self, boot_id: int) -> None:
        self.machines.start("n0")
        self.node = self.call(pb.RegisterNodeRequest(name="n0", address="sim:1", boot_id=boot_id))
        self.direct.settle()

    def call(self, request: Message) -> Any:
        return self.direct.call(request)


def test_every_request_of_the_service_is_answered() -> None:
    world = World()
    owner = world.call(pb.OpenSessionRequest())
    who = {"session_id": owner.session_id, "token": owner.token}
    region = world.call(pb.AllocateRegionRequest(**who, length=1)).region
    read = types_pb2.RIGHTS_READ
    shared = world.call(pb.ShareRegionRequest(**who, gva=region.gva, domain="team", rights=read)).region
    asked = {
        "RegisterNode": world.node,
        "RenewLease": world.call(pb.RenewLeaseRequest(name="n0", lease_token=world.node.lease_token)),
        "ListNodes": world.call(pb.ListNodesRequest()),
        "OpenSession": owner,
        "RenewSession": world.call(pb.RenewSessionRequest(**who)),
        "AllocateRegion": pb.AllocateRegionResponse(region=region),
        "ShareRegion": pb.ShareRegionResponse(region=shared),
        "ResolveAddress": world.call(pb.ResolveAddressRequest(gva=region.gva)),
        "ListRegions": world.call(pb.ListRegionsRequest()),
        "FreeRegion": world.call(pb.FreeRegionRequest(**who, gva=region.gva)),
        "CloseSession": world.call(pb.CloseSessionRequest(**who)),
        "DeregisterNode": world.call(pb.DeregisterNodeRequest(name="n0", lease_token=world.node.lease_token)),
    }
    methods = pb.DESCRIPTOR.services_by_name["CoordinatorService"].methods
    assert {method.name: method.output_type.name for method in methods if not method.server_streaming} == {
        name: response.DESCRIPTOR.name for name, response in asked.items()
    }
    assert asked["ResolveAddress"].region == asked["ListRegions"].regions[0] == shared
    assert asked["ResolveAddress"].node == asked["ListNodes"].nodes[0] == owner.home
    assert world.machines.books["n0"].owned == {}


def test_what_is_no_request_is_refused() -> None:
    with pytest.raises(CoordinatorError, match="ListNodesResponse") as caught:
        World().call(pb.ListNodesResponse())
    assert caught.value.reason is Reason.BAD_ARGUMENT


def test_a_restarted_node_is_told_by_settle() -> None:
    world = World()
    owner = world.call(pb.OpenSessionRequest())
    world.boot(2)
    assert world.machines.books["n0"].domains == {owner.pdid: {owner.token}}


def test_expiry_is_carried_out_on_the_nodes() -> None:
    world = World()
    world.call(pb.OpenSessionRequest())
    world.now = SESSION_TTL_NS
    world.call(pb.RenewLeaseRequest(name="n0", lease_token=world.node.lease_token))
    assert world.direct.core.next_deadline_ns == SESSION_TTL_NS
    assert len(world.direct.expire().sessions) == 1
    assert world.machines.books["n0"].domains == {}
    assert world.direct.core.next_deadline_ns is not None


def test_the_same_calls_give_the_same_answers() -> None:
    def history() -> list[Any]:
        world = World()
        owner = world.call(pb.OpenSessionRequest(domain="team"))
        for length in (1, 1 << 21, 5):
            world.call(
                pb.AllocateRegionRequest(session_id=owner.session_id, token=owner.token, length=length)
            )
        return [owner, world.call(pb.ListRegionsRequest()), world.machines.log]

    assert history() == history()
