from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetRequest(_message.Message):
    __slots__ = ("key", "bucket", "owned_since", "metadata_only", "max_bytes", "offset", "length", "if_match", "properties", "blocks")
    KEY_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    OWNED_SINCE_FIELD_NUMBER: _ClassVar[int]
    METADATA_ONLY_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    IF_MATCH_FIELD_NUMBER: _ClassVar[int]
    PROPERTIES_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    bucket: str
    owned_since: int
    metadata_only: bool
    max_bytes: int
    offset: int
    length: int
    if_match: str
    properties: bool
    blocks: BlockRead
    def __init__(self, key: _Optional[bytes] = ..., bucket: _Optional[str] = ..., owned_since: _Optional[int] = ..., metadata_only: bool = ..., max_bytes: _Optional[int] = ..., offset: _Optional[int] = ..., length: _Optional[int] = ..., if_match: _Optional[str] = ..., properties: bool = ..., blocks: _Optional[_Union[BlockRead, _Mapping]] = ...) -> None: ...

class BlockRead(_message.Message):
    __slots__ = ("size", "group_bytes", "ahead_offset", "ahead_length")
    SIZE_FIELD_NUMBER: _ClassVar[int]
    GROUP_BYTES_FIELD_NUMBER: _ClassVar[int]
    AHEAD_OFFSET_FIELD_NUMBER: _ClassVar[int]
    AHEAD_LENGTH_FIELD_NUMBER: _ClassVar[int]
    size: int
    group_bytes: int
    ahead_offset: int
    ahead_length: int
    def __init__(self, size: _Optional[int] = ..., group_bytes: _Optional[int] = ..., ahead_offset: _Optional[int] = ..., ahead_length: _Optional[int] = ...) -> None: ...

class GetResponse(_message.Message):
    __slots__ = ("successful", "value", "outcome", "age_seconds", "etag", "node", "size", "dirty", "ttl_ms", "omitted", "last_modified", "headers", "metadata", "block_bytes", "group_bytes")
    class HeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SUCCESSFUL_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    AGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DIRTY_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    OMITTED_FIELD_NUMBER: _ClassVar[int]
    LAST_MODIFIED_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    BLOCK_BYTES_FIELD_NUMBER: _ClassVar[int]
    GROUP_BYTES_FIELD_NUMBER: _ClassVar[int]
    successful: bool
    value: bytes
    outcome: str
    age_seconds: float
    etag: str
    node: str
    size: int
    dirty: bool
    ttl_ms: int
    omitted: bool
    last_modified: float
    headers: _containers.ScalarMap[str, str]
    metadata: _containers.ScalarMap[str, str]
    block_bytes: int
    group_bytes: int
    def __init__(self, successful: bool = ..., value: _Optional[bytes] = ..., outcome: _Optional[str] = ..., age_seconds: _Optional[float] = ..., etag: _Optional[str] = ..., node: _Optional[str] = ..., size: _Optional[int] = ..., dirty: bool = ..., ttl_ms: _Optional[int] = ..., omitted: bool = ..., last_modified: _Optional[float] = ..., headers: _Optional[_Mapping[str, str]] = ..., metadata: _Optional[_Mapping[str, str]] = ..., block_bytes: _Optional[int] = ..., group_bytes: _Optional[int] = ...) -> None: ...

class PutRequest(_message.Message):
    __slots__ = ("key", "bucket", "value", "owned_since", "durability", "if_match", "if_none_match", "ttl_ms", "headers", "metadata", "exact_etag")
    class HeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    KEY_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    OWNED_SINCE_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    IF_MATCH_FIELD_NUMBER: _ClassVar[int]
    IF_NONE_MATCH_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    EXACT_ETAG_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    bucket: str
    value: bytes
    owned_since: int
    durability: str
    if_match: str
    if_none_match: str
    ttl_ms: int
    headers: _containers.ScalarMap[str, str]
    metadata: _containers.ScalarMap[str, str]
    exact_etag: bool
    def __init__(self, key: _Optional[bytes] = ..., bucket: _Optional[str] = ..., value: _Optional[bytes] = ..., owned_since: _Optional[int] = ..., durability: _Optional[str] = ..., if_match: _Optional[str] = ..., if_none_match: _Optional[str] = ..., ttl_ms: _Optional[int] = ..., headers: _Optional[_Mapping[str, str]] = ..., metadata: _Optional[_Mapping[str, str]] = ..., exact_etag: bool = ...) -> None: ...

class PutResponse(_message.Message):
    __slots__ = ("successful", "etag", "node", "durability")
    SUCCESSFUL_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    successful: bool
    etag: str
    node: str
    durability: str
    def __init__(self, successful: bool = ..., etag: _Optional[str] = ..., node: _Optional[str] = ..., durability: _Optional[str] = ...) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("key", "bucket", "owned_since", "durability", "if_match")
    KEY_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    OWNED_SINCE_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    IF_MATCH_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    bucket: str
    owned_since: int
    durability: str
    if_match: str
    def __init__(self, key: _Optional[bytes] = ..., bucket: _Optional[str] = ..., owned_since: _Optional[int] = ..., durability: _Optional[str] = ..., if_match: _Optional[str] = ...) -> None: ...

class DeleteResponse(_message.Message):
    __slots__ = ("successful", "node", "durability")
    SUCCESSFUL_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    successful: bool
    node: str
    durability: str
    def __init__(self, successful: bool = ..., node: _Optional[str] = ..., durability: _Optional[str] = ...) -> None: ...

class UploadRequest(_message.Message):
    __slots__ = ("key", "bucket", "owned_since", "upload", "offset", "value", "complete", "abort", "durability", "if_match", "if_none_match", "store_upload", "parts")
    KEY_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    OWNED_SINCE_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    ABORT_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    IF_MATCH_FIELD_NUMBER: _ClassVar[int]
    IF_NONE_MATCH_FIELD_NUMBER: _ClassVar[int]
    STORE_UPLOAD_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    bucket: str
    owned_since: int
    upload: str
    offset: int
    value: bytes
    complete: bool
    abort: bool
    durability: str
    if_match: str
    if_none_match: str
    store_upload: str
    parts: _containers.RepeatedCompositeFieldContainer[UploadedPart]
    def __init__(self, key: _Optional[bytes] = ..., bucket: _Optional[str] = ..., owned_since: _Optional[int] = ..., upload: _Optional[str] = ..., offset: _Optional[int] = ..., value: _Optional[bytes] = ..., complete: bool = ..., abort: bool = ..., durability: _Optional[str] = ..., if_match: _Optional[str] = ..., if_none_match: _Optional[str] = ..., store_upload: _Optional[str] = ..., parts: _Optional[_Iterable[_Union[UploadedPart, _Mapping]]] = ...) -> None: ...

class UploadedPart(_message.Message):
    __slots__ = ("number", "etag")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    number: int
    etag: str
    def __init__(self, number: _Optional[int] = ..., etag: _Optional[str] = ...) -> None: ...

class UploadResponse(_message.Message):
    __slots__ = ("successful", "etag", "node", "durability", "received")
    SUCCESSFUL_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    successful: bool
    etag: str
    node: str
    durability: str
    received: int
    def __init__(self, successful: bool = ..., etag: _Optional[str] = ..., node: _Optional[str] = ..., durability: _Optional[str] = ..., received: _Optional[int] = ...) -> None: ...

class CopyRequest(_message.Message):
    __slots__ = ("key", "bucket", "source_key", "source_bucket", "durability", "if_match", "if_none_match", "source_if_match")
    KEY_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    SOURCE_KEY_FIELD_NUMBER: _ClassVar[int]
    SOURCE_BUCKET_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    IF_MATCH_FIELD_NUMBER: _ClassVar[int]
    IF_NONE_MATCH_FIELD_NUMBER: _ClassVar[int]
    SOURCE_IF_MATCH_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    bucket: str
    source_key: bytes
    source_bucket: str
    durability: str
    if_match: str
    if_none_match: str
    source_if_match: str
    def __init__(self, key: _Optional[bytes] = ..., bucket: _Optional[str] = ..., source_key: _Optional[bytes] = ..., source_bucket: _Optional[str] = ..., durability: _Optional[str] = ..., if_match: _Optional[str] = ..., if_none_match: _Optional[str] = ..., source_if_match: _Optional[str] = ...) -> None: ...

class CopyResponse(_message.Message):
    __slots__ = ("successful", "etag", "node", "durability")
    SUCCESSFUL_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    successful: bool
    etag: str
    node: str
    durability: str
    def __init__(self, successful: bool = ..., etag: _Optional[str] = ..., node: _Optional[str] = ..., durability: _Optional[str] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("prefix", "bucket", "cursor", "limit", "delimiter")
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    DELIMITER_FIELD_NUMBER: _ClassVar[int]
    prefix: bytes
    bucket: str
    cursor: str
    limit: int
    delimiter: bytes
    def __init__(self, prefix: _Optional[bytes] = ..., bucket: _Optional[str] = ..., cursor: _Optional[str] = ..., limit: _Optional[int] = ..., delimiter: _Optional[bytes] = ...) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("objects", "cursor", "prefixes")
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    PREFIXES_FIELD_NUMBER: _ClassVar[int]
    objects: _containers.RepeatedCompositeFieldContainer[ObjectInfo]
    cursor: str
    prefixes: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, objects: _Optional[_Iterable[_Union[ObjectInfo, _Mapping]]] = ..., cursor: _Optional[str] = ..., prefixes: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ObjectInfo(_message.Message):
    __slots__ = ("key", "size", "etag", "last_modified")
    KEY_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    LAST_MODIFIED_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    size: int
    etag: str
    last_modified: float
    def __init__(self, key: _Optional[bytes] = ..., size: _Optional[int] = ..., etag: _Optional[str] = ..., last_modified: _Optional[float] = ...) -> None: ...

class StatsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatsResponse(_message.Message):
    __slots__ = ("values", "not_ready", "degraded")
    class ValuesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    VALUES_FIELD_NUMBER: _ClassVar[int]
    NOT_READY_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    values: _containers.ScalarMap[str, float]
    not_ready: str
    degraded: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, values: _Optional[_Mapping[str, float]] = ..., not_ready: _Optional[str] = ..., degraded: _Optional[_Iterable[str]] = ...) -> None: ...

class InvalidateRequest(_message.Message):
    __slots__ = ("key", "bucket", "changes", "heartbeat")
    KEY_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    bucket: str
    changes: _containers.RepeatedCompositeFieldContainer[ObjectChange]
    heartbeat: float
    def __init__(self, key: _Optional[bytes] = ..., bucket: _Optional[str] = ..., changes: _Optional[_Iterable[_Union[ObjectChange, _Mapping]]] = ..., heartbeat: _Optional[float] = ...) -> None: ...

class ObjectChange(_message.Message):
    __slots__ = ("key", "bucket", "etag")
    KEY_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    bucket: str
    etag: str
    def __init__(self, key: _Optional[bytes] = ..., bucket: _Optional[str] = ..., etag: _Optional[str] = ...) -> None: ...

class InvalidateResponse(_message.Message):
    __slots__ = ("successful",)
    SUCCESSFUL_FIELD_NUMBER: _ClassVar[int]
    successful: bool
    def __init__(self, successful: bool = ...) -> None: ...

class RefreshRequest(_message.Message):
    __slots__ = ("keys", "bucket", "prefix")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedScalarFieldContainer[bytes]
    bucket: str
    prefix: bytes
    def __init__(self, keys: _Optional[_Iterable[bytes]] = ..., bucket: _Optional[str] = ..., prefix: _Optional[bytes] = ...) -> None: ...

class RefreshResponse(_message.Message):
    __slots__ = ("refreshed", "dirty")
    REFRESHED_FIELD_NUMBER: _ClassVar[int]
    DIRTY_FIELD_NUMBER: _ClassVar[int]
    refreshed: int
    dirty: int
    def __init__(self, refreshed: _Optional[int] = ..., dirty: _Optional[int] = ...) -> None: ...

class SweepRequest(_message.Message):
    __slots__ = ("job", "bucket", "prefix", "action", "dry_run", "limit", "end")
    JOB_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    job: str
    bucket: str
    prefix: bytes
    action: str
    dry_run: bool
    limit: int
    end: bool
    def __init__(self, job: _Optional[str] = ..., bucket: _Optional[str] = ..., prefix: _Optional[bytes] = ..., action: _Optional[str] = ..., dry_run: bool = ..., limit: _Optional[int] = ..., end: bool = ...) -> None: ...

class SweepResponse(_message.Message):
    __slots__ = ("done", "examined", "entries", "changed", "bytes", "dirty", "nodes")
    DONE_FIELD_NUMBER: _ClassVar[int]
    EXAMINED_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    DIRTY_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    done: bool
    examined: int
    entries: int
    changed: int
    bytes: int
    dirty: int
    nodes: _containers.RepeatedCompositeFieldContainer[NodeSweep]
    def __init__(self, done: bool = ..., examined: _Optional[int] = ..., entries: _Optional[int] = ..., changed: _Optional[int] = ..., bytes: _Optional[int] = ..., dirty: _Optional[int] = ..., nodes: _Optional[_Iterable[_Union[NodeSweep, _Mapping]]] = ...) -> None: ...

class NodeSweep(_message.Message):
    __slots__ = ("address", "done", "examined", "entries", "changed", "bytes", "dirty")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    EXAMINED_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    DIRTY_FIELD_NUMBER: _ClassVar[int]
    address: str
    done: bool
    examined: int
    entries: int
    changed: int
    bytes: int
    dirty: int
    def __init__(self, address: _Optional[str] = ..., done: bool = ..., examined: _Optional[int] = ..., entries: _Optional[int] = ..., changed: _Optional[int] = ..., bytes: _Optional[int] = ..., dirty: _Optional[int] = ...) -> None: ...

class WarmRequest(_message.Message):
    __slots__ = ("keys", "bucket", "sizes", "dry_run")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedScalarFieldContainer[bytes]
    bucket: str
    sizes: _containers.RepeatedScalarFieldContainer[int]
    dry_run: bool
    def __init__(self, keys: _Optional[_Iterable[bytes]] = ..., bucket: _Optional[str] = ..., sizes: _Optional[_Iterable[int]] = ..., dry_run: bool = ...) -> None: ...

class WarmResponse(_message.Message):
    __slots__ = ("warmed", "value_bytes", "present", "too_large", "absent", "no_room", "failed", "error", "left", "memory_bytes", "room_bytes", "room_entries", "nodes")
    WARMED_FIELD_NUMBER: _ClassVar[int]
    VALUE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PRESENT_FIELD_NUMBER: _ClassVar[int]
    TOO_LARGE_FIELD_NUMBER: _ClassVar[int]
    ABSENT_FIELD_NUMBER: _ClassVar[int]
    NO_ROOM_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    ROOM_BYTES_FIELD_NUMBER: _ClassVar[int]
    ROOM_ENTRIES_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    warmed: int
    value_bytes: int
    present: int
    too_large: int
    absent: int
    no_room: int
    failed: int
    error: str
    left: _containers.RepeatedScalarFieldContainer[bytes]
    memory_bytes: int
    room_bytes: int
    room_entries: int
    nodes: _containers.RepeatedCompositeFieldContainer[NodeWarm]
    def __init__(self, warmed: _Optional[int] = ..., value_bytes: _Optional[int] = ..., present: _Optional[int] = ..., too_large: _Optional[int] = ..., absent: _Optional[int] = ..., no_room: _Optional[int] = ..., failed: _Optional[int] = ..., error: _Optional[str] = ..., left: _Optional[_Iterable[bytes]] = ..., memory_bytes: _Optional[int] = ..., room_bytes: _Optional[int] = ..., room_entries: _Optional[int] = ..., nodes: _Optional[_Iterable[_Union[NodeWarm, _Mapping]]] = ...) -> None: ...

class NodeWarm(_message.Message):
    __slots__ = ("address", "warmed", "value_bytes", "memory_bytes", "room_bytes", "room_entries")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    WARMED_FIELD_NUMBER: _ClassVar[int]
    VALUE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    ROOM_BYTES_FIELD_NUMBER: _ClassVar[int]
    ROOM_ENTRIES_FIELD_NUMBER: _ClassVar[int]
    address: str
    warmed: int
    value_bytes: int
    memory_bytes: int
    room_bytes: int
    room_entries: int
    def __init__(self, address: _Optional[str] = ..., warmed: _Optional[int] = ..., value_bytes: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., room_bytes: _Optional[int] = ..., room_entries: _Optional[int] = ...) -> None: ...

class FlushRequest(_message.Message):
    __slots__ = ("keys", "bucket")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedScalarFieldContainer[bytes]
    bucket: str
    def __init__(self, keys: _Optional[_Iterable[bytes]] = ..., bucket: _Optional[str] = ...) -> None: ...

class FlushResponse(_message.Message):
    __slots__ = ("remaining", "failed", "flushed")
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    FLUSHED_FIELD_NUMBER: _ClassVar[int]
    remaining: int
    failed: int
    flushed: int
    def __init__(self, remaining: _Optional[int] = ..., failed: _Optional[int] = ..., flushed: _Optional[int] = ...) -> None: ...

class ListDeadLettersRequest(_message.Message):
    __slots__ = ("limit",)
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    limit: int
    def __init__(self, limit: _Optional[int] = ...) -> None: ...

class ListDeadLettersResponse(_message.Message):
    __slots__ = ("writes", "total")
    WRITES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    writes: _containers.RepeatedCompositeFieldContainer[FailedWrite]
    total: int
    def __init__(self, writes: _Optional[_Iterable[_Union[FailedWrite, _Mapping]]] = ..., total: _Optional[int] = ...) -> None: ...

class FailedWrite(_message.Message):
    __slots__ = ("key", "bucket", "operation", "size", "version", "reason", "failed_at", "node")
    KEY_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FAILED_AT_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    bucket: str
    operation: str
    size: int
    version: str
    reason: str
    failed_at: float
    node: str
    def __init__(self, key: _Optional[bytes] = ..., bucket: _Optional[str] = ..., operation: _Optional[str] = ..., size: _Optional[int] = ..., version: _Optional[str] = ..., reason: _Optional[str] = ..., failed_at: _Optional[float] = ..., node: _Optional[str] = ...) -> None: ...

class ResolveDeadLettersRequest(_message.Message):
    __slots__ = ("action", "keys", "bucket", "all")
    ACTION_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    ALL_FIELD_NUMBER: _ClassVar[int]
    action: str
    keys: _containers.RepeatedScalarFieldContainer[bytes]
    bucket: str
    all: bool
    def __init__(self, action: _Optional[str] = ..., keys: _Optional[_Iterable[bytes]] = ..., bucket: _Optional[str] = ..., all: bool = ...) -> None: ...

class ResolveDeadLettersResponse(_message.Message):
    __slots__ = ("resolved",)
    RESOLVED_FIELD_NUMBER: _ClassVar[int]
    resolved: int
    def __init__(self, resolved: _Optional[int] = ...) -> None: ...

class CheckMemberRequest(_message.Message):
    __slots__ = ("address", "node_id")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    address: str
    node_id: str
    def __init__(self, address: _Optional[str] = ..., node_id: _Optional[str] = ...) -> None: ...

class CheckMemberResponse(_message.Message):
    __slots__ = ("exited",)
    EXITED_FIELD_NUMBER: _ClassVar[int]
    exited: bool
    def __init__(self, exited: bool = ...) -> None: ...

class AbandonMovesRequest(_message.Message):
    __slots__ = ("epoch", "first", "last")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    first: _containers.RepeatedScalarFieldContainer[int]
    last: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, epoch: _Optional[int] = ..., first: _Optional[_Iterable[int]] = ..., last: _Optional[_Iterable[int]] = ...) -> None: ...

class AbandonMovesResponse(_message.Message):
    __slots__ = ("taken",)
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    taken: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, taken: _Optional[_Iterable[int]] = ...) -> None: ...

class SizeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SizePoint(_message.Message):
    __slots__ = ("scale", "max_entries", "max_bytes", "hit_ratio", "gets", "puts", "read_bytes", "cost", "sample")
    SCALE_FIELD_NUMBER: _ClassVar[int]
    MAX_ENTRIES_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    HIT_RATIO_FIELD_NUMBER: _ClassVar[int]
    GETS_FIELD_NUMBER: _ClassVar[int]
    PUTS_FIELD_NUMBER: _ClassVar[int]
    READ_BYTES_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    scale: float
    max_entries: float
    max_bytes: float
    hit_ratio: float
    gets: float
    puts: float
    read_bytes: float
    cost: float
    sample: float
    def __init__(self, scale: _Optional[float] = ..., max_entries: _Optional[float] = ..., max_bytes: _Optional[float] = ..., hit_ratio: _Optional[float] = ..., gets: _Optional[float] = ..., puts: _Optional[float] = ..., read_bytes: _Optional[float] = ..., cost: _Optional[float] = ..., sample: _Optional[float] = ...) -> None: ...

class NodeSize(_message.Message):
    __slots__ = ("address", "error", "seconds", "reads", "hit_ratio", "points")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    READS_FIELD_NUMBER: _ClassVar[int]
    HIT_RATIO_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    address: str
    error: str
    seconds: float
    reads: float
    hit_ratio: float
    points: _containers.RepeatedCompositeFieldContainer[SizePoint]
    def __init__(self, address: _Optional[str] = ..., error: _Optional[str] = ..., seconds: _Optional[float] = ..., reads: _Optional[float] = ..., hit_ratio: _Optional[float] = ..., points: _Optional[_Iterable[_Union[SizePoint, _Mapping]]] = ...) -> None: ...

class SizeResponse(_message.Message):
    __slots__ = ("nodes",)
    NODES_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[NodeSize]
    def __init__(self, nodes: _Optional[_Iterable[_Union[NodeSize, _Mapping]]] = ...) -> None: ...

class HotKeysRequest(_message.Message):
    __slots__ = ("reset",)
    RESET_FIELD_NUMBER: _ClassVar[int]
    reset: bool
    def __init__(self, reset: bool = ...) -> None: ...

class HotKey(_message.Message):
    __slots__ = ("key", "bucket", "reads", "read_bytes")
    KEY_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    READS_FIELD_NUMBER: _ClassVar[int]
    READ_BYTES_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    bucket: str
    reads: float
    read_bytes: float
    def __init__(self, key: _Optional[bytes] = ..., bucket: _Optional[str] = ..., reads: _Optional[float] = ..., read_bytes: _Optional[float] = ...) -> None: ...

class NodeHotKeys(_message.Message):
    __slots__ = ("address", "error", "seconds", "reads", "read_bytes", "by_reads", "by_bytes")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    READS_FIELD_NUMBER: _ClassVar[int]
    READ_BYTES_FIELD_NUMBER: _ClassVar[int]
    BY_READS_FIELD_NUMBER: _ClassVar[int]
    BY_BYTES_FIELD_NUMBER: _ClassVar[int]
    address: str
    error: str
    seconds: float
    reads: float
    read_bytes: float
    by_reads: _containers.RepeatedCompositeFieldContainer[HotKey]
    by_bytes: _containers.RepeatedCompositeFieldContainer[HotKey]
    def __init__(self, address: _Optional[str] = ..., error: _Optional[str] = ..., seconds: _Optional[float] = ..., reads: _Optional[float] = ..., read_bytes: _Optional[float] = ..., by_reads: _Optional[_Iterable[_Union[HotKey, _Mapping]]] = ..., by_bytes: _Optional[_Iterable[_Union[HotKey, _Mapping]]] = ...) -> None: ...

class HotKeysResponse(_message.Message):
    __slots__ = ("nodes",)
    NODES_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[NodeHotKeys]
    def __init__(self, nodes: _Optional[_Iterable[_Union[NodeHotKeys, _Mapping]]] = ...) -> None: ...
