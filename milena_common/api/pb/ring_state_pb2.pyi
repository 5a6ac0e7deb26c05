from milena_common.api.pb import router_server_pb2 as _router_server_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RingState(_message.Message):
    __slots__ = ("format", "write_id", "ring", "members", "losses", "recovering", "longest_lease", "planning", "abandoned")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    WRITE_ID_FIELD_NUMBER: _ClassVar[int]
    RING_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    LOSSES_FIELD_NUMBER: _ClassVar[int]
    RECOVERING_FIELD_NUMBER: _ClassVar[int]
    LONGEST_LEASE_FIELD_NUMBER: _ClassVar[int]
    PLANNING_FIELD_NUMBER: _ClassVar[int]
    ABANDONED_FIELD_NUMBER: _ClassVar[int]
    format: int
    write_id: bytes
    ring: _router_server_pb2.RingUpdate
    members: _containers.RepeatedCompositeFieldContainer[MemberState]
    losses: _containers.RepeatedCompositeFieldContainer[LossState]
    recovering: bool
    longest_lease: float
    planning: Delay
    abandoned: _containers.RepeatedCompositeFieldContainer[AbandonedMoves]
    def __init__(self, format: _Optional[int] = ..., write_id: _Optional[bytes] = ..., ring: _Optional[_Union[_router_server_pb2.RingUpdate, _Mapping]] = ..., members: _Optional[_Iterable[_Union[MemberState, _Mapping]]] = ..., losses: _Optional[_Iterable[_Union[LossState, _Mapping]]] = ..., recovering: bool = ..., longest_lease: _Optional[float] = ..., planning: _Optional[_Union[Delay, _Mapping]] = ..., abandoned: _Optional[_Iterable[_Union[AbandonedMoves, _Mapping]]] = ...) -> None: ...

class Delay(_message.Message):
    __slots__ = ("seconds", "begun_by")
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    BEGUN_BY_FIELD_NUMBER: _ClassVar[int]
    seconds: float
    begun_by: bytes
    def __init__(self, seconds: _Optional[float] = ..., begun_by: _Optional[bytes] = ...) -> None: ...

class MemberState(_message.Message):
    __slots__ = ("request", "replaced_id", "member_epoch")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    REPLACED_ID_FIELD_NUMBER: _ClassVar[int]
    MEMBER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    request: _router_server_pb2.JoinRequest
    replaced_id: str
    member_epoch: int
    def __init__(self, request: _Optional[_Union[_router_server_pb2.JoinRequest, _Mapping]] = ..., replaced_id: _Optional[str] = ..., member_epoch: _Optional[int] = ...) -> None: ...

class LossState(_message.Message):
    __slots__ = ("address", "node_id", "journal_id", "epoch", "over", "awaited", "needs_witness", "witnesses", "acknowledge", "witnessed")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    JOURNAL_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    OVER_FIELD_NUMBER: _ClassVar[int]
    AWAITED_FIELD_NUMBER: _ClassVar[int]
    NEEDS_WITNESS_FIELD_NUMBER: _ClassVar[int]
    WITNESSES_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGE_FIELD_NUMBER: _ClassVar[int]
    WITNESSED_FIELD_NUMBER: _ClassVar[int]
    address: str
    node_id: str
    journal_id: str
    epoch: int
    over: Delay
    awaited: _containers.RepeatedScalarFieldContainer[str]
    needs_witness: bool
    witnesses: _containers.RepeatedScalarFieldContainer[str]
    acknowledge: int
    witnessed: bool
    def __init__(self, address: _Optional[str] = ..., node_id: _Optional[str] = ..., journal_id: _Optional[str] = ..., epoch: _Optional[int] = ..., over: _Optional[_Union[Delay, _Mapping]] = ..., awaited: _Optional[_Iterable[str]] = ..., needs_witness: bool = ..., witnesses: _Optional[_Iterable[str]] = ..., acknowledge: _Optional[int] = ..., witnessed: bool = ...) -> None: ...

class AbandonedMoves(_message.Message):
    __slots__ = ("owner", "destination", "times")
    OWNER_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    TIMES_FIELD_NUMBER: _ClassVar[int]
    owner: str
    destination: str
    times: int
    def __init__(self, owner: _Optional[str] = ..., destination: _Optional[str] = ..., times: _Optional[int] = ...) -> None: ...

class LeaseRecord(_message.Message):
    __slots__ = ("request", "lease_seconds")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    request: _router_server_pb2.JoinRequest
    lease_seconds: float
    def __init__(self, request: _Optional[_Union[_router_server_pb2.JoinRequest, _Mapping]] = ..., lease_seconds: _Optional[float] = ...) -> None: ...
