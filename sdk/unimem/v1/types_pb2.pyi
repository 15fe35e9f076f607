from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Rights(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RIGHTS_UNSPECIFIED: _ClassVar[Rights]
    RIGHTS_READ: _ClassVar[Rights]
    RIGHTS_WRITE: _ClassVar[Rights]
    RIGHTS_READ_WRITE: _ClassVar[Rights]

class NodeState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NODE_STATE_UNSPECIFIED: _ClassVar[NodeState]
    NODE_STATE_UP: _ClassVar[NodeState]
    NODE_STATE_LOST: _ClassVar[NodeState]
    NODE_STATE_LEFT: _ClassVar[NodeState]

class RegionState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REGION_STATE_UNSPECIFIED: _ClassVar[RegionState]
    REGION_STATE_ACTIVE: _ClassVar[RegionState]
    REGION_STATE_LOST: _ClassVar[RegionState]
RIGHTS_UNSPECIFIED: Rights
RIGHTS_READ: Rights
RIGHTS_WRITE: Rights
RIGHTS_READ_WRITE: Rights
NODE_STATE_UNSPECIFIED: NodeState
NODE_STATE_UP: NodeState
NODE_STATE_LOST: NodeState
NODE_STATE_LEFT: NodeState
REGION_STATE_UNSPECIFIED: RegionState
REGION_STATE_ACTIVE: RegionState
REGION_STATE_LOST: RegionState

class Node(_message.Message):
    __slots__ = ("name", "index", "address", "state", "window_base", "window_size", "incarnation", "platform", "memory_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    WINDOW_BASE_FIELD_NUMBER: _ClassVar[int]
    WINDOW_SIZE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    PLATFORM_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    index: int
    address: str
    state: NodeState
    window_base: int
    window_size: int
    incarnation: int
    platform: str
    memory_bytes: int
    def __init__(self, name: _Optional[str] = ..., index: _Optional[int] = ..., address: _Optional[str] = ..., state: _Optional[_Union[NodeState, str]] = ..., window_base: _Optional[int] = ..., window_size: _Optional[int] = ..., incarnation: _Optional[int] = ..., platform: _Optional[str] = ..., memory_bytes: _Optional[int] = ...) -> None: ...

class Region(_message.Message):
    __slots__ = ("gva", "length", "node", "pdid", "name", "state", "grants")
    GVA_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    PDID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    GRANTS_FIELD_NUMBER: _ClassVar[int]
    gva: int
    length: int
    node: str
    pdid: int
    name: str
    state: RegionState
    grants: _containers.RepeatedCompositeFieldContainer[Grant]
    def __init__(self, gva: _Optional[int] = ..., length: _Optional[int] = ..., node: _Optional[str] = ..., pdid: _Optional[int] = ..., name: _Optional[str] = ..., state: _Optional[_Union[RegionState, str]] = ..., grants: _Optional[_Iterable[_Union[Grant, _Mapping]]] = ...) -> None: ...

class Grant(_message.Message):
    __slots__ = ("pdid", "rights", "domain")
    PDID_FIELD_NUMBER: _ClassVar[int]
    RIGHTS_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    pdid: int
    rights: Rights
    domain: str
    def __init__(self, pdid: _Optional[int] = ..., rights: _Optional[_Union[Rights, str]] = ..., domain: _Optional[str] = ...) -> None: ...
