from unimem.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RegisterNodeRequest(_message.Message):
    __slots__ = ("name", "address", "platform", "memory_bytes", "boot_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PLATFORM_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    address: str
    platform: str
    memory_bytes: int
    boot_id: int
    def __init__(self, name: _Optional[str] = ..., address: _Optional[str] = ..., platform: _Optional[str] = ..., memory_bytes: _Optional[int] = ..., boot_id: _Optional[int] = ...) -> None: ...

class RegisterNodeResponse(_message.Message):
    __slots__ = ("node", "lease_token", "lease_ttl_ns", "epoch")
    NODE_FIELD_NUMBER: _ClassVar[int]
    LEASE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    LEASE_TTL_NS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    node: _types_pb2.Node
    lease_token: str
    lease_ttl_ns: int
    epoch: int
    def __init__(self, node: _Optional[_Union[_types_pb2.Node, _Mapping]] = ..., lease_token: _Optional[str] = ..., lease_ttl_ns: _Optional[int] = ..., epoch: _Optional[int] = ...) -> None: ...

class RenewLeaseRequest(_message.Message):
    __slots__ = ("name", "lease_token")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LEASE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    name: str
    lease_token: str
    def __init__(self, name: _Optional[str] = ..., lease_token: _Optional[str] = ...) -> None: ...

class RenewLeaseResponse(_message.Message):
    __slots__ = ("lease_ttl_ns", "epoch")
    LEASE_TTL_NS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    lease_ttl_ns: int
    epoch: int
    def __init__(self, lease_ttl_ns: _Optional[int] = ..., epoch: _Optional[int] = ...) -> None: ...

class DeregisterNodeRequest(_message.Message):
    __slots__ = ("name", "lease_token")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LEASE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    name: str
    lease_token: str
    def __init__(self, name: _Optional[str] = ..., lease_token: _Optional[str] = ...) -> None: ...

class DeregisterNodeResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListNodesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListNodesResponse(_message.Message):
    __slots__ = ("nodes", "epoch")
    NODES_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[_types_pb2.Node]
    epoch: int
    def __init__(self, nodes: _Optional[_Iterable[_Union[_types_pb2.Node, _Mapping]]] = ..., epoch: _Optional[int] = ...) -> None: ...

class OpenSessionRequest(_message.Message):
    __slots__ = ("home", "domain")
    HOME_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    home: str
    domain: str
    def __init__(self, home: _Optional[str] = ..., domain: _Optional[str] = ...) -> None: ...

class OpenSessionResponse(_message.Message):
    __slots__ = ("session_id", "token", "pdid", "home", "session_ttl_ns", "domain")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    PDID_FIELD_NUMBER: _ClassVar[int]
    HOME_FIELD_NUMBER: _ClassVar[int]
    SESSION_TTL_NS_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    token: str
    pdid: int
    home: _types_pb2.Node
    session_ttl_ns: int
    domain: str
    def __init__(self, session_id: _Optional[str] = ..., token: _Optional[str] = ..., pdid: _Optional[int] = ..., home: _Optional[_Union[_types_pb2.Node, _Mapping]] = ..., session_ttl_ns: _Optional[int] = ..., domain: _Optional[str] = ...) -> None: ...

class RenewSessionRequest(_message.Message):
    __slots__ = ("session_id", "token")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    token: str
    def __init__(self, session_id: _Optional[str] = ..., token: _Optional[str] = ...) -> None: ...

class RenewSessionResponse(_message.Message):
    __slots__ = ("session_ttl_ns",)
    SESSION_TTL_NS_FIELD_NUMBER: _ClassVar[int]
    session_ttl_ns: int
    def __init__(self, session_ttl_ns: _Optional[int] = ...) -> None: ...

class CloseSessionRequest(_message.Message):
    __slots__ = ("session_id", "token")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    token: str
    def __init__(self, session_id: _Optional[str] = ..., token: _Optional[str] = ...) -> None: ...

class CloseSessionResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AllocateRegionRequest(_message.Message):
    __slots__ = ("session_id", "token", "node", "length", "name")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    token: str
    node: str
    length: int
    name: str
    def __init__(self, session_id: _Optional[str] = ..., token: _Optional[str] = ..., node: _Optional[str] = ..., length: _Optional[int] = ..., name: _Optional[str] = ...) -> None: ...

class AllocateRegionResponse(_message.Message):
    __slots__ = ("region",)
    REGION_FIELD_NUMBER: _ClassVar[int]
    region: _types_pb2.Region
    def __init__(self, region: _Optional[_Union[_types_pb2.Region, _Mapping]] = ...) -> None: ...

class FreeRegionRequest(_message.Message):
    __slots__ = ("session_id", "token", "gva")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    GVA_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    token: str
    gva: int
    def __init__(self, session_id: _Optional[str] = ..., token: _Optional[str] = ..., gva: _Optional[int] = ...) -> None: ...

class FreeRegionResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ShareRegionRequest(_message.Message):
    __slots__ = ("session_id", "token", "gva", "domain", "rights", "pdid")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    GVA_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    RIGHTS_FIELD_NUMBER: _ClassVar[int]
    PDID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    token: str
    gva: int
    domain: str
    rights: _types_pb2.Rights
    pdid: int
    def __init__(self, session_id: _Optional[str] = ..., token: _Optional[str] = ..., gva: _Optional[int] = ..., domain: _Optional[str] = ..., rights: _Optional[_Union[_types_pb2.Rights, str]] = ..., pdid: _Optional[int] = ...) -> None: ...

class ShareRegionResponse(_message.Message):
    __slots__ = ("region",)
    REGION_FIELD_NUMBER: _ClassVar[int]
    region: _types_pb2.Region
    def __init__(self, region: _Optional[_Union[_types_pb2.Region, _Mapping]] = ...) -> None: ...

class ResolveAddressRequest(_message.Message):
    __slots__ = ("gva",)
    GVA_FIELD_NUMBER: _ClassVar[int]
    gva: int
    def __init__(self, gva: _Optional[int] = ...) -> None: ...

class ResolveAddressResponse(_message.Message):
    __slots__ = ("region", "node", "va")
    REGION_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    VA_FIELD_NUMBER: _ClassVar[int]
    region: _types_pb2.Region
    node: _types_pb2.Node
    va: int
    def __init__(self, region: _Optional[_Union[_types_pb2.Region, _Mapping]] = ..., node: _Optional[_Union[_types_pb2.Node, _Mapping]] = ..., va: _Optional[int] = ...) -> None: ...

class ListRegionsRequest(_message.Message):
    __slots__ = ("node", "domain")
    NODE_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    node: str
    domain: str
    def __init__(self, node: _Optional[str] = ..., domain: _Optional[str] = ...) -> None: ...

class ListRegionsResponse(_message.Message):
    __slots__ = ("regions",)
    REGIONS_FIELD_NUMBER: _ClassVar[int]
    regions: _containers.RepeatedCompositeFieldContainer[_types_pb2.Region]
    def __init__(self, regions: _Optional[_Iterable[_Union[_types_pb2.Region, _Mapping]]] = ...) -> None: ...

class WatchRoutesRequest(_message.Message):
    __slots__ = ("known_epoch",)
    KNOWN_EPOCH_FIELD_NUMBER: _ClassVar[int]
    known_epoch: int
    def __init__(self, known_epoch: _Optional[int] = ...) -> None: ...

class WatchRoutesResponse(_message.Message):
    __slots__ = ("epoch", "nodes")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    nodes: _containers.RepeatedCompositeFieldContainer[_types_pb2.Node]
    def __init__(self, epoch: _Optional[int] = ..., nodes: _Optional[_Iterable[_Union[_types_pb2.Node, _Mapping]]] = ...) -> None: ...
