"""Pure. The table of the API's methods: the one place where each is named and described.

Servers, clients and the router's forwarding take names, messages and properties from here. `test_methods` verifies
that the table matches `proto/`, and that no other code spells the name of a method.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeVar

from google.protobuf.message import Message

from milena_common.api.pb import cache_server_pb2 as node_pb
from milena_common.api.pb import router_server_pb2 as router_pb

H = TypeVar("H", bound=Callable[..., Any])

# The gRPC services that have the methods.
ROUTER_SERVICE: Final = "router_server.Router"
NODE_SERVICE: Final = "cache_server.Cache"


class Messages(NamedTuple):
    """The messages of a method at one of the services. Those of both services are the same on the wire."""

    request: type[Message]
    response: type[Message]


@dataclass(frozen=True, slots=True, eq=False)
class ApiMethod:
    """A method of the API.

    name: in gRPC and in MILENA.CALL
    operation: the label under which servers count it
    router, node: its messages at the router and at a node; None: that service does not have it
    form: "unary"; "stream": one request, any number of responses; "upload": any number of requests, one response;
        "exchange": a stream of requests, with one response to each in turn
    to_owner: True if the node that owns the request's `key` serves it, so that a client may send it there directly
    at_any_node: True if any node can serve it in place of the router
    writes: True if it changes the object
    repeatable: True if a call that may have arrived can be made again without harm
    over_resp: True if the router calls a node's RESP server, where a call costs a tenth of one over gRPC
    large_request: True if a request has a value, or any number of keys
    """

    name: str
    operation: str
    router: Messages | None = None
    node: Messages | None = None
    form: Literal["unary", "stream", "upload", "exchange"] = "unary"
    to_owner: bool = False
    at_any_node: bool = False
    writes: bool = False
    repeatable: bool = True
    over_resp: bool = False
    large_request: bool = False

    @property
    def router_path(self) -> str:
        """The path of its gRPC calls to the router."""
        return f"/{ROUTER_SERVICE}/{self.name}"

    @property
    def node_path(self) -> str:
        """The path of its gRPC calls to a node."""
        return f"/{NODE_SERVICE}/{self.name}"


GET: Final = ApiMethod(
    name="Get",
    operation="get",
    router=Messages(router_pb.GetRequest, router_pb.GetResponse),
    node=Messages(node_pb.GetRequest, node_pb.GetResponse),
    to_owner=True,
    over_resp=True,
)
PUT: Final = ApiMethod(
    name="Put",
    operation="put",
    router=Messages(router_pb.PutRequest, router_pb.PutResponse),
    node=Messages(node_pb.PutRequest, node_pb.PutResponse),
    to_owner=True,
    writes=True,
    repeatable=False,  # a second one could overwrite what another client has written between the two
    over_resp=True,
    large_request=True,
)
DELETE: Final = ApiMethod(
    name="Delete",
    operation="delete",
    router=Messages(router_pb.DeleteRequest, router_pb.DeleteResponse),
    node=Messages(node_pb.DeleteRequest, node_pb.DeleteResponse),
    to_owner=True,
    writes=True,
    repeatable=False,  # as of Put
    over_resp=True,
)
UPLOAD: Final = ApiMethod(
    name="Upload",
    operation="upload",
    router=Messages(router_pb.UploadRequest, router_pb.UploadResponse),
    node=Messages(node_pb.UploadRequest, node_pb.UploadResponse),
    to_owner=True,
    writes=True,
    over_resp=True,
    large_request=True,
)
READ: Final = ApiMethod(
    name="Read",
    operation="read",
    router=GET.router,
    node=GET.node,
    form="stream",
)
WRITE: Final = ApiMethod(
    name="Write",
    operation="write",
    router=UPLOAD.router,
    node=UPLOAD.node,
    form="upload",
    writes=True,
)
COPY: Final = ApiMethod(
    name="Copy",
    operation="copy",
    router=Messages(router_pb.CopyRequest, router_pb.CopyResponse),
    node=Messages(node_pb.CopyRequest, node_pb.CopyResponse),
    at_any_node=True,
    writes=True,
    repeatable=False,  # as of Put
)
LIST: Final = ApiMethod(
    name="List",
    operation="list",
    router=Messages(router_pb.ListRequest, router_pb.ListResponse),
    node=Messages(node_pb.ListRequest, node_pb.ListResponse),
    at_any_node=True,
)
JOIN: Final = ApiMethod(
    name="Join",
    operation="join",
    router=Messages(router_pb.JoinRequest, router_pb.JoinResponse),
)
LEAVE: Final = ApiMethod(
    name="Leave",
    operation="leave",
    router=Messages(router_pb.LeaveRequest, router_pb.LeaveResponse),
)
NODES: Final = ApiMethod(
    name="Nodes",
    operation="nodes",
    router=Messages(router_pb.NodesRequest, router_pb.NodesResponse),
)
OWNER: Final = ApiMethod(
    name="Owner",
    operation="owner",
    router=Messages(router_pb.OwnerRequest, router_pb.OwnerResponse),
)
STATS: Final = ApiMethod(
    name="Stats",
    operation="stats",
    router=Messages(router_pb.StatsRequest, router_pb.StatsResponse),
    node=Messages(node_pb.StatsRequest, node_pb.StatsResponse),
)
INVALIDATE: Final = ApiMethod(
    name="Invalidate",
    operation="invalidate",
    node=Messages(node_pb.InvalidateRequest, node_pb.InvalidateResponse),
    over_resp=True,
)
CHECK_MEMBER: Final = ApiMethod(
    name="CheckMember",
    operation="check_member",
    node=Messages(node_pb.CheckMemberRequest, node_pb.CheckMemberResponse),
    over_resp=True,
)
ABANDON_MOVES: Final = ApiMethod(
    name="AbandonMoves",
    operation="abandon_moves",
    node=Messages(node_pb.AbandonMovesRequest, node_pb.AbandonMovesResponse),
    over_resp=True,
)
FLUSH: Final = ApiMethod(
    name="Flush",
    operation="flush",
    router=Messages(router_pb.FlushRequest, router_pb.FlushResponse),
    node=Messages(node_pb.FlushRequest, node_pb.FlushResponse),
    large_request=True,
)
LIST_DEAD_LETTERS: Final = ApiMethod(
    name="ListDeadLetters",
    operation="list_dead_letters",
    router=Messages(router_pb.ListDeadLettersRequest, router_pb.ListDeadLettersResponse),
    node=Messages(node_pb.ListDeadLettersRequest, node_pb.ListDeadLettersResponse),
)
RESOLVE_DEAD_LETTERS: Final = ApiMethod(
    name="ResolveDeadLetters",
    operation="resolve_dead_letters",
    router=Messages(router_pb.ResolveDeadLettersRequest, router_pb.ResolveDeadLettersResponse),
    node=Messages(node_pb.ResolveDeadLettersRequest, node_pb.ResolveDeadLettersResponse),
    writes=True,
    repeatable=False,  # except to retry: a second drop could also delete a write that has failed in between
    large_request=True,
)
REFRESH: Final = ApiMethod(
    name="Refresh",
    operation="refresh",
    router=Messages(router_pb.RefreshRequest, router_pb.RefreshResponse),
    node=Messages(node_pb.RefreshRequest, node_pb.RefreshResponse),
)
SWEEP: Final = ApiMethod(
    name="Sweep",
    operation="sweep",
    router=Messages(router_pb.SweepRequest, router_pb.SweepResponse),
    node=Messages(node_pb.SweepRequest, node_pb.SweepResponse),
)
WARM: Final = ApiMethod(
    name="Warm",
    operation="warm",
    router=Messages(router_pb.WarmRequest, router_pb.WarmResponse),
    node=Messages(node_pb.WarmRequest, node_pb.WarmResponse),
    large_request=True,
)
SIZE: Final = ApiMethod(
    name="Size",
    operation="size",
    router=Messages(router_pb.SizeRequest, router_pb.SizeResponse),
    node=Messages(node_pb.SizeRequest, node_pb.SizeResponse),
)
HOT_KEYS: Final = ApiMethod(
    name="HotKeys",
    operation="hot_keys",
    router=Messages(router_pb.HotKeysRequest, router_pb.HotKeysResponse),
    node=Messages(node_pb.HotKeysRequest, node_pb.HotKeysResponse),
)
WATCH_RING: Final = ApiMethod(
    name="WatchRing",
    operation="watch_ring",
    router=Messages(router_pb.WatchRingRequest, router_pb.RingUpdate),
    form="stream",
)
KEEP_LEASE: Final = ApiMethod(
    name="KeepLease",
    operation=JOIN.operation,
    router=Messages(router_pb.JoinRequest, router_pb.JoinResponse),
    form="exchange",
)

# The method that has the same effect for one request, at a router without the exchange.
UNARY_OF_EXCHANGE: Final[Mapping[str, str]] = {KEEP_LEASE.name: JOIN.name}

METHODS: Final = (
    *(GET, PUT, DELETE, UPLOAD, READ, WRITE, COPY, LIST),
    *(JOIN, LEAVE, NODES, OWNER),
    *(STATS, INVALIDATE, CHECK_MEMBER, ABANDON_MOVES, FLUSH, LIST_DEAD_LETTERS, RESOLVE_DEAD_LETTERS),
    *(REFRESH, SWEEP, WARM, SIZE, HOT_KEYS),
    *(WATCH_RING, KEEP_LEASE),
)

# The labels under which the services count their calls.
ROUTER_OPERATIONS: Final = tuple(dict.fromkeys(method.operation for method in METHODS if method.router))
NODE_OPERATIONS: Final = tuple(dict.fromkeys(method.operation for method in METHODS if method.node))

LARGE_REQUESTS: Final = frozenset(method.name for method in METHODS if method.large_request)


# Takes the request and its remaining seconds (None: no deadline); returns the serialized response.
Handler = Callable[[Any, float | None], Awaitable[bytes]]


class ObjectMethods(Protocol):
    """The methods that router and nodes both have, as `Handler`s."""

    def get(self, request: Any, remaining: float | None, /) -> Awaitable[bytes]: ...

    def put(self, request: Any, remaining: float | None, /) -> Awaitable[bytes]: ...

    def delete(self, request: Any, remaining: float | None, /) -> Awaitable[bytes]: ...

    def upload(self, request: Any, remaining: float | None, /) -> Awaitable[bytes]: ...

    def copy(self, request: Any, remaining: float | None, /) -> Awaitable[bytes]: ...

    def list(self, request: Any, remaining: float | None, /) -> Awaitable[bytes]: ...

    def stats(self, request: Any, remaining: float | None, /) -> Awaitable[bytes]: ...

    def flush(self, request: Any, remaining: float | None, /) -> Awaitable[bytes]: ...

    def list_dead_letters(self, request: Any, remaining: float | None, /) -> Awaitable[bytes]: ...

    def resolve_dead_letters(self, request: Any, remaining: float | None, /) -> Awaitable[bytes]: ...

    def refresh(self, request: Any, remaining: float | None, /) -> Awaitable[bytes]: ...

    def sweep(self, request: Any, remaining: float | None, /) -> Awaitable[bytes]: ...

    def warm(self, request: Any, remaining: float | None, /) -> Awaitable[bytes]: ...

    def size(self, request: Any, remaining: float | None, /) -> Awaitable[bytes]: ...

    def hot_keys(self, request: Any, remaining: float | None, /) -> Awaitable[bytes]: ...


def handlers_of(methods: ObjectMethods) -> dict[ApiMethod, Handler]:
    """Return the handlers of the methods that router and nodes both have."""
    return {
        GET: methods.get,
        PUT: methods.put,
        DELETE: methods.delete,
        UPLOAD: methods.upload,
        COPY: methods.copy,
        LIST: methods.list,
        STATS: methods.stats,
        FLUSH: methods.flush,
        LIST_DEAD_LETTERS: methods.list_dead_letters,
        RESOLVE_DEAD_LETTERS: methods.resolve_dead_letters,
        REFRESH: methods.refresh,
        SWEEP: methods.sweep,
        WARM: methods.warm,
        SIZE: methods.size,
        HOT_KEYS: methods.hot_keys,
    }


def served_by_router(handlers: Mapping[ApiMethod, H]) -> dict[str, tuple[str, type[Message], H]]:
    """Return the operation, request message and handler of methods by name, for a `GrpcServer`."""
    return {
        method.name: (method.operation, method.router.request, handlers[method])
        for method in METHODS
        if method.router and method in handlers
    }


def served_by_node(handlers: Mapping[ApiMethod, H]) -> dict[str, tuple[str, type[Message], H]]:
    """Return what `served_by_router` does, for a node."""
    return {
        method.name: (method.operation, method.node.request, handlers[method])
        for method in METHODS
        if method.node and method in handlers
    }
