from unimem.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Advice(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ADVICE_UNSPECIFIED: _ClassVar[Advice]
    ADVICE_DONTNEED: _ClassVar[Advice]
    ADVICE_WILLNEED: _ClassVar[Advice]
    ADVICE_PAGEOUT: _ClassVar[Advice]
    ADVICE_COLD: _ClassVar[Advice]
    ADVICE_HUGEPAGE: _ClassVar[Advice]
    ADVICE_NOHUGEPAGE: _ClassVar[Advice]
    ADVICE_COLLAPSE: _ClassVar[Advice]
    ADVICE_SPLIT: _ClassVar[Advice]
    ADVICE_MIGRATE: _ClassVar[Advice]
    ADVICE_LOCK: _ClassVar[Advice]
    ADVICE_UNLOCK: _ClassVar[Advice]
    ADVICE_PIN: _ClassVar[Advice]
    ADVICE_UNPIN: _ClassVar[Advice]

class Opcode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OPCODE_UNSPECIFIED: _ClassVar[Opcode]
    OPCODE_WRITE: _ClassVar[Opcode]
    OPCODE_READ: _ClassVar[Opcode]
    OPCODE_FETCH_ADD: _ClassVar[Opcode]
    OPCODE_COMPARE_SWAP: _ClassVar[Opcode]
    OPCODE_SWAP: _ClassVar[Opcode]
    OPCODE_SEND: _ClassVar[Opcode]
    OPCODE_COPY: _ClassVar[Opcode]
ADVICE_UNSPECIFIED: Advice
ADVICE_DONTNEED: Advice
ADVICE_WILLNEED: Advice
ADVICE_PAGEOUT: Advice
ADVICE_COLD: Advice
ADVICE_HUGEPAGE: Advice
ADVICE_NOHUGEPAGE: Advice
ADVICE_COLLAPSE: Advice
ADVICE_SPLIT: Advice
ADVICE_MIGRATE: Advice
ADVICE_LOCK: Advice
ADVICE_UNLOCK: Advice
ADVICE_PIN: Advice
ADVICE_UNPIN: Advice
OPCODE_UNSPECIFIED: Opcode
OPCODE_WRITE: Opcode
OPCODE_READ: Opcode
OPCODE_FETCH_ADD: Opcode
OPCODE_COMPARE_SWAP: Opcode
OPCODE_SWAP: Opcode
OPCODE_SEND: Opcode
OPCODE_COPY: Opcode

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("node", "virtual_time_ns", "counters", "resident_bytes", "pdids", "peers", "pending_interrupts")
    class CountersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class PeersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NODE_FIELD_NUMBER: _ClassVar[int]
    VIRTUAL_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    PDIDS_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    PENDING_INTERRUPTS_FIELD_NUMBER: _ClassVar[int]
    node: _types_pb2.Node
    virtual_time_ns: int
    counters: _containers.ScalarMap[str, int]
    resident_bytes: int
    pdids: _containers.RepeatedScalarFieldContainer[int]
    peers: _containers.ScalarMap[str, str]
    pending_interrupts: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, node: _Optional[_Union[_types_pb2.Node, _Mapping]] = ..., virtual_time_ns: _Optional[int] = ..., counters: _Optional[_Mapping[str, int]] = ..., resident_bytes: _Optional[int] = ..., pdids: _Optional[_Iterable[int]] = ..., peers: _Optional[_Mapping[str, str]] = ..., pending_interrupts: _Optional[_Iterable[int]] = ...) -> None: ...

class OpenDomainRequest(_message.Message):
    __slots__ = ("pdid", "token")
    PDID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    pdid: int
    token: str
    def __init__(self, pdid: _Optional[int] = ..., token: _Optional[str] = ...) -> None: ...

class OpenDomainResponse(_message.Message):
    __slots__ = ("asid",)
    ASID_FIELD_NUMBER: _ClassVar[int]
    asid: int
    def __init__(self, asid: _Optional[int] = ...) -> None: ...

class CloseDomainRequest(_message.Message):
    __slots__ = ("pdid", "token")
    PDID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    pdid: int
    token: str
    def __init__(self, pdid: _Optional[int] = ..., token: _Optional[str] = ...) -> None: ...

class CloseDomainResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MapRegionRequest(_message.Message):
    __slots__ = ("gva", "length", "pdid", "rights", "owner")
    GVA_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    PDID_FIELD_NUMBER: _ClassVar[int]
    RIGHTS_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    gva: int
    length: int
    pdid: int
    rights: _types_pb2.Rights
    owner: bool
    def __init__(self, gva: _Optional[int] = ..., length: _Optional[int] = ..., pdid: _Optional[int] = ..., rights: _Optional[_Union[_types_pb2.Rights, str]] = ..., owner: bool = ...) -> None: ...

class MapRegionResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class UnmapRegionRequest(_message.Message):
    __slots__ = ("gva", "pdid")
    GVA_FIELD_NUMBER: _ClassVar[int]
    PDID_FIELD_NUMBER: _ClassVar[int]
    gva: int
    pdid: int
    def __init__(self, gva: _Optional[int] = ..., pdid: _Optional[int] = ...) -> None: ...

class UnmapRegionResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MapMemoryRequest(_message.Message):
    __slots__ = ("pdid", "va", "length", "rights")
    PDID_FIELD_NUMBER: _ClassVar[int]
    VA_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    RIGHTS_FIELD_NUMBER: _ClassVar[int]
    pdid: int
    va: int
    length: int
    rights: _types_pb2.Rights
    def __init__(self, pdid: _Optional[int] = ..., va: _Optional[int] = ..., length: _Optional[int] = ..., rights: _Optional[_Union[_types_pb2.Rights, str]] = ...) -> None: ...

class MapMemoryResponse(_message.Message):
    __slots__ = ("va",)
    VA_FIELD_NUMBER: _ClassVar[int]
    va: int
    def __init__(self, va: _Optional[int] = ...) -> None: ...

class UnmapMemoryRequest(_message.Message):
    __slots__ = ("pdid", "va", "length")
    PDID_FIELD_NUMBER: _ClassVar[int]
    VA_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    pdid: int
    va: int
    length: int
    def __init__(self, pdid: _Optional[int] = ..., va: _Optional[int] = ..., length: _Optional[int] = ...) -> None: ...

class UnmapMemoryResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ProtectMemoryRequest(_message.Message):
    __slots__ = ("pdid", "va", "length", "rights")
    PDID_FIELD_NUMBER: _ClassVar[int]
    VA_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    RIGHTS_FIELD_NUMBER: _ClassVar[int]
    pdid: int
    va: int
    length: int
    rights: _types_pb2.Rights
    def __init__(self, pdid: _Optional[int] = ..., va: _Optional[int] = ..., length: _Optional[int] = ..., rights: _Optional[_Union[_types_pb2.Rights, str]] = ...) -> None: ...

class ProtectMemoryResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReadMemoryRequest(_message.Message):
    __slots__ = ("pdid", "va", "length")
    PDID_FIELD_NUMBER: _ClassVar[int]
    VA_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    pdid: int
    va: int
    length: int
    def __init__(self, pdid: _Optional[int] = ..., va: _Optional[int] = ..., length: _Optional[int] = ...) -> None: ...

class ReadMemoryResponse(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class WriteMemoryRequest(_message.Message):
    __slots__ = ("pdid", "va", "data")
    PDID_FIELD_NUMBER: _ClassVar[int]
    VA_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    pdid: int
    va: int
    data: bytes
    def __init__(self, pdid: _Optional[int] = ..., va: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class WriteMemoryResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AdviseRequest(_message.Message):
    __slots__ = ("pdid", "va", "length", "advice")
    PDID_FIELD_NUMBER: _ClassVar[int]
    VA_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    ADVICE_FIELD_NUMBER: _ClassVar[int]
    pdid: int
    va: int
    length: int
    advice: Advice
    def __init__(self, pdid: _Optional[int] = ..., va: _Optional[int] = ..., length: _Optional[int] = ..., advice: _Optional[_Union[Advice, str]] = ...) -> None: ...

class AdviseResponse(_message.Message):
    __slots__ = ("pages",)
    PAGES_FIELD_NUMBER: _ClassVar[int]
    pages: int
    def __init__(self, pages: _Optional[int] = ...) -> None: ...

class ReadRequest(_message.Message):
    __slots__ = ("address", "width", "length", "peek")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    PEEK_FIELD_NUMBER: _ClassVar[int]
    address: int
    width: int
    length: int
    peek: bool
    def __init__(self, address: _Optional[int] = ..., width: _Optional[int] = ..., length: _Optional[int] = ..., peek: bool = ...) -> None: ...

class ReadResponse(_message.Message):
    __slots__ = ("value", "data")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    value: int
    data: bytes
    def __init__(self, value: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class WriteRequest(_message.Message):
    __slots__ = ("address", "width", "value", "data")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    address: int
    width: int
    value: int
    data: bytes
    def __init__(self, address: _Optional[int] = ..., width: _Optional[int] = ..., value: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class WriteResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchInterruptsRequest(_message.Message):
    __slots__ = ("spis",)
    SPIS_FIELD_NUMBER: _ClassVar[int]
    spis: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, spis: _Optional[_Iterable[int]] = ...) -> None: ...

class WatchInterruptsResponse(_message.Message):
    __slots__ = ("spi", "level", "virtual_time_ns", "dropped")
    SPI_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    VIRTUAL_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    spi: int
    level: bool
    virtual_time_ns: int
    dropped: int
    def __init__(self, spi: _Optional[int] = ..., level: bool = ..., virtual_time_ns: _Optional[int] = ..., dropped: _Optional[int] = ...) -> None: ...

class ListDevicesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListDevicesResponse(_message.Message):
    __slots__ = ("platform", "devices", "streams")
    PLATFORM_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    platform: str
    devices: _containers.RepeatedCompositeFieldContainer[BusDevice]
    streams: _containers.RepeatedCompositeFieldContainer[StreamRange]
    def __init__(self, platform: _Optional[str] = ..., devices: _Optional[_Iterable[_Union[BusDevice, _Mapping]]] = ..., streams: _Optional[_Iterable[_Union[StreamRange, _Mapping]]] = ...) -> None: ...

class BusDevice(_message.Message):
    __slots__ = ("name", "base", "size", "what", "spis")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    SPIS_FIELD_NUMBER: _ClassVar[int]
    name: str
    base: int
    size: int
    what: str
    spis: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., base: _Optional[int] = ..., size: _Optional[int] = ..., what: _Optional[str] = ..., spis: _Optional[_Iterable[int]] = ...) -> None: ...

class StreamRange(_message.Message):
    __slots__ = ("first", "count", "name", "member")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    name: str
    member: str
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., name: _Optional[str] = ..., member: _Optional[str] = ...) -> None: ...

class DescribeDeviceRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DescribeDeviceResponse(_message.Message):
    __slots__ = ("device", "registers")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    REGISTERS_FIELD_NUMBER: _ClassVar[int]
    device: BusDevice
    registers: _containers.RepeatedCompositeFieldContainer[RegisterInfo]
    def __init__(self, device: _Optional[_Union[BusDevice, _Mapping]] = ..., registers: _Optional[_Iterable[_Union[RegisterInfo, _Mapping]]] = ...) -> None: ...

class RegisterInfo(_message.Message):
    __slots__ = ("name", "offset", "size", "count", "stride", "reset", "access", "doc", "fields", "reset_step")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    ACCESS_FIELD_NUMBER: _ClassVar[int]
    DOC_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    RESET_STEP_FIELD_NUMBER: _ClassVar[int]
    name: str
    offset: int
    size: int
    count: int
    stride: int
    reset: int
    access: str
    doc: str
    fields: _containers.RepeatedCompositeFieldContainer[FieldInfo]
    reset_step: int
    def __init__(self, name: _Optional[str] = ..., offset: _Optional[int] = ..., size: _Optional[int] = ..., count: _Optional[int] = ..., stride: _Optional[int] = ..., reset: _Optional[int] = ..., access: _Optional[str] = ..., doc: _Optional[str] = ..., fields: _Optional[_Iterable[_Union[FieldInfo, _Mapping]]] = ..., reset_step: _Optional[int] = ...) -> None: ...

class FieldInfo(_message.Message):
    __slots__ = ("name", "high", "low", "doc")
    NAME_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    DOC_FIELD_NUMBER: _ClassVar[int]
    name: str
    high: int
    low: int
    doc: str
    def __init__(self, name: _Optional[str] = ..., high: _Optional[int] = ..., low: _Optional[int] = ..., doc: _Optional[str] = ...) -> None: ...

class TransferRequest(_message.Message):
    __slots__ = ("packed", "work", "cancel")
    PACKED_FIELD_NUMBER: _ClassVar[int]
    WORK_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    packed: bytes
    work: _containers.RepeatedCompositeFieldContainer[WorkRequest]
    cancel: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, packed: _Optional[bytes] = ..., work: _Optional[_Iterable[_Union[WorkRequest, _Mapping]]] = ..., cancel: _Optional[_Iterable[int]] = ...) -> None: ...

class TransferResponse(_message.Message):
    __slots__ = ("packed", "completions")
    PACKED_FIELD_NUMBER: _ClassVar[int]
    COMPLETIONS_FIELD_NUMBER: _ClassVar[int]
    packed: bytes
    completions: _containers.RepeatedCompositeFieldContainer[Completion]
    def __init__(self, packed: _Optional[bytes] = ..., completions: _Optional[_Iterable[_Union[Completion, _Mapping]]] = ...) -> None: ...

class WorkRequest(_message.Message):
    __slots__ = ("wr_id", "opcode", "src", "dst", "length", "data", "operand", "compare", "fence", "ordered", "accepted", "deadline_us", "signal")
    WR_ID_FIELD_NUMBER: _ClassVar[int]
    OPCODE_FIELD_NUMBER: _ClassVar[int]
    SRC_FIELD_NUMBER: _ClassVar[int]
    DST_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    OPERAND_FIELD_NUMBER: _ClassVar[int]
    COMPARE_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    ORDERED_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_US_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    wr_id: int
    opcode: Opcode
    src: int
    dst: int
    length: int
    data: bytes
    operand: int
    compare: int
    fence: bool
    ordered: bool
    accepted: bool
    deadline_us: int
    signal: int
    def __init__(self, wr_id: _Optional[int] = ..., opcode: _Optional[_Union[Opcode, str]] = ..., src: _Optional[int] = ..., dst: _Optional[int] = ..., length: _Optional[int] = ..., data: _Optional[bytes] = ..., operand: _Optional[int] = ..., compare: _Optional[int] = ..., fence: bool = ..., ordered: bool = ..., accepted: bool = ..., deadline_us: _Optional[int] = ..., signal: _Optional[int] = ...) -> None: ...

class Completion(_message.Message):
    __slots__ = ("wr_id", "status", "reason", "bytes", "value", "data", "definite", "node", "syndrome", "posted_ns", "completed_ns", "timing_ns")
    class TimingNsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    WR_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    DEFINITE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    SYNDROME_FIELD_NUMBER: _ClassVar[int]
    POSTED_NS_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_NS_FIELD_NUMBER: _ClassVar[int]
    TIMING_NS_FIELD_NUMBER: _ClassVar[int]
    wr_id: int
    status: int
    reason: str
    bytes: int
    value: int
    data: bytes
    definite: bool
    node: str
    syndrome: Syndrome
    posted_ns: int
    completed_ns: int
    timing_ns: _containers.ScalarMap[str, int]
    def __init__(self, wr_id: _Optional[int] = ..., status: _Optional[int] = ..., reason: _Optional[str] = ..., bytes: _Optional[int] = ..., value: _Optional[int] = ..., data: _Optional[bytes] = ..., definite: bool = ..., node: _Optional[str] = ..., syndrome: _Optional[_Union[Syndrome, _Mapping]] = ..., posted_ns: _Optional[int] = ..., completed_ns: _Optional[int] = ..., timing_ns: _Optional[_Mapping[str, int]] = ...) -> None: ...

class Syndrome(_message.Message):
    __slots__ = ("iova", "stream_id", "context_bank", "stage", "level", "write", "fsr", "fsynr0")
    IOVA_FIELD_NUMBER: _ClassVar[int]
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_BANK_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    FSR_FIELD_NUMBER: _ClassVar[int]
    FSYNR0_FIELD_NUMBER: _ClassVar[int]
    iova: int
    stream_id: int
    context_bank: int
    stage: int
    level: int
    write: bool
    fsr: int
    fsynr0: int
    def __init__(self, iova: _Optional[int] = ..., stream_id: _Optional[int] = ..., context_bank: _Optional[int] = ..., stage: _Optional[int] = ..., level: _Optional[int] = ..., write: bool = ..., fsr: _Optional[int] = ..., fsynr0: _Optional[int] = ...) -> None: ...

class ExchangeRequest(_message.Message):
    __slots__ = ("frame",)
    FRAME_FIELD_NUMBER: _ClassVar[int]
    frame: bytes
    def __init__(self, frame: _Optional[bytes] = ...) -> None: ...

class ExchangeResponse(_message.Message):
    __slots__ = ("frame",)
    FRAME_FIELD_NUMBER: _ClassVar[int]
    frame: bytes
    def __init__(self, frame: _Optional[bytes] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("name", "incarnation", "transports", "tcp_port", "unix_socket")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    TRANSPORTS_FIELD_NUMBER: _ClassVar[int]
    TCP_PORT_FIELD_NUMBER: _ClassVar[int]
    UNIX_SOCKET_FIELD_NUMBER: _ClassVar[int]
    name: str
    incarnation: int
    transports: _containers.RepeatedScalarFieldContainer[str]
    tcp_port: int
    unix_socket: str
    def __init__(self, name: _Optional[str] = ..., incarnation: _Optional[int] = ..., transports: _Optional[_Iterable[str]] = ..., tcp_port: _Optional[int] = ..., unix_socket: _Optional[str] = ...) -> None: ...
