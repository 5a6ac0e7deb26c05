"""Pure. What a principal needs for a method of the API: the same decisions at router and nodes, over gRPC and RESP.

Methods on objects need the permission for the command of Redis that does the same; methods that Redis has nothing
like have names of their own (`milena.call|…`). Methods between the cluster's processes need the cluster's identity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from milena_common.access.access import Access
from milena_common.access.commands import Need
from milena_common.access.principals import Principal
from milena_common.access.rules import ObjectName, User
from milena_common.api import methods as api
from milena_common.api.keys import cache_key, canonical_bucket
from milena_common.api.pb import router_server_pb2 as pb

# Takes a serialized response, and returns it without what the principal may not see.
Filter = Callable[[bytes], bytes]

LIST_COMMAND: Final = "scan"
HOT_KEYS_COMMAND: Final = "hotkeys|get"
_RESET_COMMAND: Final = "hotkeys|reset"


class _Need(NamedTuple):
    command: str
    need: Need = ""


_ON_OBJECT: Final = {
    api.GET: _Need("get", "r"),
    api.PUT: _Need("set", "w"),
    api.UPLOAD: _Need("set", "w"),
    api.READ: _Need("get", "r"),
    api.WRITE: _Need("set", "w"),
    api.DELETE: _Need("del", "w"),
}
# By method: what it needs for the keys that it names, and what if it names none.
_ON_OBJECTS: Final = {
    api.FLUSH: (_Need("milena.call|flush_keys", "w"), _Need("milena.call|flush")),
    api.REFRESH: (_Need("milena.refresh", "w"), _Need("milena.call|refresh_all")),
    api.WARM: (_Need("milena.call|warm", "r"), _Need("milena.call|warm")),
}
_OTHER: Final = {
    api.LIST: _Need(LIST_COMMAND),
    api.NODES: _Need("cluster|nodes"),
    api.OWNER: _Need("cluster|keyslot"),
    api.STATS: _Need("info"),
    api.LEAVE: _Need("milena.call|leave"),
    api.SIZE: _Need("info"),
    api.HOT_KEYS: _Need(HOT_KEYS_COMMAND),
    api.LIST_DEAD_LETTERS: _Need("milena.call|list_dead_letters"),
    api.RESOLVE_DEAD_LETTERS: _Need("milena.call|resolve_dead_letters"),
    api.SWEEP: _Need("milena.call|refresh_all"),  # what it does to a prefix is what a refresh does, or less
}
# Clients follow the ring to find the owners of their keys: a login is enough.
_LOGIN_ONLY: Final = frozenset((api.WATCH_RING.name,))
_OF_CLUSTER: Final = frozenset(
    method.name for method in (api.JOIN, api.KEEP_LEASE, api.INVALIDATE, api.CHECK_MEMBER, api.ABANDON_MOVES)
)
_OBJECT: Final = {method.name: need for method, need in _ON_OBJECT.items()}
_OBJECTS: Final = {method.name: needs for method, needs in _ON_OBJECTS.items()}
_PLAIN: Final = {method.name: need for method, need in _OTHER.items()}
# Actions that the audit log records, also where they are allowed.
_ACTIONS: Final = frozenset(
    method.name for method in (api.LEAVE, api.FLUSH, api.REFRESH, api.SWEEP, api.WARM, api.RESOLVE_DEAD_LETTERS)
)


class ApiGuard:
    """The decisions for the API of one process. `default_bucket` returns the name of the default bucket."""

    def __init__(self, access: Access, default_bucket: Callable[[], str], now: Callable[[], float]) -> None:
        self.access = access
        self._default_bucket = default_bucket
        self._now = now

    def authorize(self, principal: Principal, method: str, request: Any, address: str, port: str) -> Filter | None:
        """Return how the response has to be filtered, None if not at all.

        Raises Unauthenticated, AccessDenied or RateLimited.
        """
        user = principal.guard
        if user is None:
            if method in _ACTIONS and not principal.is_cluster:
                self._acted(principal, method, request, address, port)
            return None
        if not user.enabled:
            raise self.access.missing(address, port)
        if method in _LOGIN_ONLY:
            return None
        if method in _OF_CLUSTER:
            raise self._denied(principal, method, address, port)
        if need := _OBJECT.get(method):
            self.access.limits.admit(user, self._now())
            self._check(principal, user, need, (request.key,), request.bucket, address, port)
            return None
        if method == api.COPY.name:
            self.access.limits.admit(user, self._now())
            source = (request.source_key,)
            self._check(principal, user, _ON_OBJECT[api.GET], source, request.source_bucket, address, port)
            self._check(principal, user, _ON_OBJECT[api.PUT], (request.key,), request.bucket, address, port)
            return None
        if needs := _OBJECTS.get(method):
            need = needs[0] if request.keys else needs[1]
            self._check(principal, user, need, tuple(request.keys), request.bucket, address, port)
        else:
            need = _PLAIN.get(method, _Need(""))
            if method == api.LIST.name:
                self.access.limits.admit(user, self._now())
            self._check(principal, user, need, (), "", address, port)
            if method == api.HOT_KEYS.name and request.reset:
                self._check(principal, user, _Need(_RESET_COMMAND), (), "", address, port)
        if method in _ACTIONS:
            self._acted(principal, method, request, address, port)
        if method == api.LIST.name and not user.unrestricted_for(LIST_COMMAND):
            return self._list_filter(user, request)
        if method == api.HOT_KEYS.name and not user.unrestricted_for(HOT_KEYS_COMMAND):
            return self._hot_keys_filter(user)
        return None

    def charge(self, user: User, size: int) -> None:
        """Count `size` bytes of a request or response of `user`."""
        self.access.limits.charge(user, size, self._now())

    def records(self, method: str) -> bool:
        """True if the method is an action that the audit log records."""
        return method in _ACTIONS

    def named(self, bucket: str, key: bytes) -> ObjectName:
        """Return the name of an object for its rules."""
        default = self._default_bucket()
        name = canonical_bucket(bucket, default)
        return ObjectName(name, key, cache_key(name, key), "" if name else default)

    def _check(
        self,
        principal: Principal,
        user: User,
        need: _Need,
        keys: tuple[bytes, ...],
        bucket: str,
        address: str,
        port: str,
    ) -> None:
        command = need.command
        if not user.may_run(command):
            raise self.access.denied(principal, "command", command, command, address, port)
        if keys and not user.unrestricted_for(command):
            names = [self.named(bucket, key) for key in keys]
            if not user.allows(command, need.need, names):
                shown = names[0].cache_key.decode(errors="replace")
                raise self.access.denied(principal, "key", command, shown, address, port)

    def _denied(self, principal: Principal, method: str, address: str, port: str) -> Exception:
        return self.access.denied(principal, "command", method, method, address, port)

    def _acted(self, principal: Principal, method: str, request: Any, address: str, port: str) -> None:
        fields = {name: value for name in ("action", "all", "forget") if (value := getattr(request, name, None))}
        about = {f"request_{name}": value for name, value in fields.items()}
        number = len(getattr(request, "keys", ()))
        self.access.acted(principal, method, address, port, **about, **({"keys": number} if number else {}))

    def _list_filter(self, user: User, request: pb.ListRequest) -> Filter:
        bucket, named = request.bucket, self.named

        def filtered(response: bytes) -> bytes:
            page = pb.ListResponse.FromString(response)
            objects = [each for each in page.objects if user.may_see(LIST_COMMAND, named(bucket, each.key))]
            prefixes = [
                prefix for prefix in page.prefixes if user.may_see_prefix(LIST_COMMAND, named(bucket, prefix))
            ]
            return pb.ListResponse(objects=objects, cursor=page.cursor, prefixes=prefixes).SerializeToString()

        return filtered

    def _hot_keys_filter(self, user: User) -> Filter:
        named = self.named

        def seen(keys: Iterable[pb.HotKey]) -> list[pb.HotKey]:
            return [each for each in keys if user.may_see(HOT_KEYS_COMMAND, named(each.bucket, each.key))]

        def filtered(response: bytes) -> bytes:
            message = pb.HotKeysResponse.FromString(response)
            for node in message.nodes:
                by_reads, by_bytes = seen(node.by_reads), seen(node.by_bytes)
                del node.by_reads[:], node.by_bytes[:]
                node.by_reads.extend(by_reads)
                node.by_bytes.extend(by_bytes)
            return message.SerializeToString()

        return filtered
