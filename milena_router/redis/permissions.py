"""Pure. What a client of the Redis port may do: checked here, since nodes get its commands in the cluster's name.

The decisions are those of a node, for the same file of users.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from milena_common.access.access import Access
from milena_common.access.api_guard import ApiGuard
from milena_common.access.commands import ALWAYS_ALLOWED, AUDITED, CALLED_BY_SCRIPTS, SCRIPTS, is_of_cluster
from milena_common.access.rules import ObjectName, User
from milena_common.api.keys import SCHEME, split_cache_key
from milena_common.forwarding.routing import Forwarded
from milena_common.pubsub.channels import Kind
from milena_router.redis.session import Session

PORT: Final = "resp"


class Permissions:
    """The checks of the port. `guard` knows the names of objects; `now` returns monotonic seconds."""

    def __init__(self, access: Access, guard: ApiGuard, now: Callable[[], float]) -> None:
        self.access = access
        self.guard = guard
        self._now = now

    def check_command(
        self, session: Session, user: User, name: str, forwarded: Forwarded | None, argv: Sequence[bytes]
    ) -> None:
        """Raise Unauthenticated, AccessDenied or RateLimited unless `user` may run the command `name` on its keys.

        `forwarded` is None for a command without keys; `name` is "" for an unknown one, which is rejected as such.
        """
        if name in ALWAYS_ALLOWED:
            return
        if not user.enabled:
            raise self.access.missing(session.addr, PORT)
        if user.rate or user.bytes_rate:
            self._limit(session, user, limited=forwarded is not None)
        if name == "milena.call" or not name:
            return  # of a call its method decides (`ApiGuard`)
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
        if forwarded is None or user.unrestricted_for(name):
            return
        keys = forwarded.keys_in(argv)
        if not user.allows(name, forwarded.need(argv), [self.named(key) for key in keys]):
            shown = keys[0].decode(errors="replace") if keys else name
            raise self.access.denied(session.principal, "key", name, shown, session.addr, PORT)

    def may_listen(self, session: Session, kind: Kind, channel: bytes) -> bool:
        """True if a client may keep a subscription."""
        return session.guard is None or session.guard.may_listen(kind, channel)

    def named(self, key: bytes) -> ObjectName:
        """Return the name of the object that a command calls `key`, for its rules."""
        if not key.startswith(SCHEME):
            return ObjectName("", key, key)
        try:
            return self.guard.named(*split_cache_key(key))
        except UnicodeDecodeError:
            return ObjectName("", key, key)  # the command is rejected for it

    def charge_bytes(self, session: Session, user: User) -> None:
        """Count the bytes that the connection has received and sent since it was last charged."""
        total = session.received + session.sent
        self.access.limits.charge(user, total - session.charged, self._now())
        session.charged = total

    def _limit(self, session: Session, user: User, *, limited: bool) -> None:
        try:
            if limited:
                self.access.limits.admit(user, self._now())
        finally:
            self.charge_bytes(session, user)  # its own bytes are for the commands behind it to wait for
