"""Pure. What a connection may do: checked for each command of a principal that has a guard.

A principal without one, which is everyone without a file of users, gets no further than the test for it. The fast
paths check nothing: they are only for principals that may GET and SET any object (`Session.restricted`).
"""

from __future__ import annotations

from typing import Any, Final

from milena_cache.objects.names import Buckets
from milena_cache.servers.resp.dispatch.command import Command
from milena_cache.servers.resp.dispatch.session import Session
from milena_common.access.access import Access
from milena_common.access.commands import (
    ALWAYS_ALLOWED,
    AUDITED,
    CALLED_BY_SCRIPTS,
    NEEDS,
    SCRIPTS,
    Need,
    is_of_cluster,
)
from milena_common.access.rules import ObjectName, User
from milena_common.api.errors import MilenaError
from milena_common.api.keys import SCHEME, split_cache_key
from milena_common.pubsub.channels import Kind
from milena_common.resp.command_ordering import Access as KeyAccess

PORT: Final = "resp"
_NEED_OF: Final[dict[KeyAccess, Need]] = {"none": "", "read": "r", "write": "w", "modify": "rw"}
# Its method decides (`ApiGuard`), once its request is parsed.
_CALL: Final = "milena.call"


class Permissions:
    """The checks of one RESP server."""

    def __init__(self, access: Access, buckets: Buckets) -> None:
        self.access = access
        self._buckets = buckets

    def check_permission(
        self, session: Session, user: User, command: Command[Any], argv: list[bytes], now: float
    ) -> None:
        """Raise Unauthenticated, AccessDenied or RateLimited unless `user` may run the command.

        `command`: the subcommand if there is one; `now`: monotonic seconds.
        """
        name = command.name
        if name in ALWAYS_ALLOWED:
            return
        if not user.enabled:
            raise self.access.missing(session.addr, PORT)
        if user.rate or user.bytes_rate:
            self._limit(session, user, command, now)
        if name == _CALL or not name:
            return  # an unknown command is rejected as such
        if is_of_cluster(name) or not user.may_run(name):
            raise self.access.denied(session.principal, "command", name, name, session.addr, PORT)
        if name in SCRIPTS:
            for each in CALLED_BY_SCRIPTS:
                if not user.may_run(each):
                    raise self.access.denied(session.principal, "command", each, name, session.addr, PORT)
        if name in AUDITED:
            self.access.acted(session.principal, name, session.addr, PORT)
        if (channel := user.denied_channel(name, argv)) is not None:
            shown = channel.decode(errors="replace")
            raise self.access.denied(session.principal, "channel", name, shown, session.addr, PORT)
        if user.unrestricted_for(name):
            return
        keys = command.keys_in(argv)
        if not user.allows(name, self.need(command, argv), [self.named(key) for key in keys]):
            shown = keys[0].decode(errors="replace") if keys else name
            raise self.access.denied(session.principal, "key", name, shown, session.addr, PORT)

    def may_listen(self, session: Session, kind: Kind, channel: bytes) -> bool:
        """True if a connection may keep a subscription."""
        return session.guard is None or session.guard.may_listen(kind, channel)

    def named(self, key: bytes) -> ObjectName:
        """Return the name of the object that a command calls `key`, for its rules."""
        if not key.startswith(SCHEME):
            return ObjectName("", key, key)
        try:
            bucket, object_key = split_cache_key(key)
            found = self._buckets.resolve(bucket, object_key)
            return ObjectName(self._buckets.canonical(bucket), object_key, found.cache_key)
        except (MilenaError, UnicodeDecodeError):
            return ObjectName("", key, key)  # the command is rejected for it

    def may_see(self, session: Session, command: str, entry_key: bytes) -> bool:
        """True if `command`, which lists cache keys, may return this one to the client."""
        user = session.guard
        if user is None or user.unrestricted_for(command):
            return True
        bucket, key = split_cache_key(entry_key)
        return user.may_see(command, ObjectName(bucket, key, entry_key))

    def charge(self, session: Session, user: User, now: float) -> None:
        """Count the bytes that the connection has received and sent since it was last charged."""
        total = session.received + session.sent
        self.access.limits.charge(user, total - session.charged, now)
        session.charged = total

    def _limit(self, session: Session, user: User, command: Command[Any], now: float) -> None:
        try:
            if command.has_keys or command.operation != "other":
                self.access.limits.admit(user, now)
        finally:
            self.charge(session, user, now)  # its own bytes are for the commands behind it to wait for

    def allows_one(self, user: User, command: Command[Any], argv: list[bytes], key: bytes) -> bool:
        """True if `user` may run `command` on this one of its keys."""
        return user.allows(command.name, self.need(command, argv), [self.named(key)])

    def need(self, command: Command[Any], argv: list[bytes]) -> Need:
        """Return what the command does to its keys, in the terms of key patterns."""
        known = NEEDS.get(command.name)
        if known is not None:
            return known
        if command.name == "set":
            # Only with GET does it return the value.
            return "rw" if any(word.upper() == b"GET" for word in argv[3:]) else "w"
        return _NEED_OF[command.access]
