"""Coordination. MILENA.CALL at the router: the methods of its gRPC service on one object, for Milena's clients.

They are the same methods: limited, forwarded and followed as those of gRPC. Only the frame around them is cheaper.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.message import DecodeError

from milena_common.access.access import Access
from milena_common.access.api_guard import ApiGuard
from milena_common.access.principals import END_USER
from milena_common.api.errors import DeadlineExceeded, InvalidRequest, Overloaded
from milena_common.api.methods import METHODS
from milena_common.resp.redis_replies import CommandError, integer
from milena_common.rpc.calls import Message, Method
from milena_common.runtime.clock import Clock, monotonic_ms
from milena_router.redis.permissions import PORT
from milena_router.redis.session import Session

MAX_TIMEOUT_MS: Final = 24 * 3600 * 1000
# Milliseconds after which a call that came too late may be repeated.
RETRY_AFTER_MS: Final = 500
_ON_OBJECTS: Final = {method.name: method for method in METHODS if method.to_owner}


class ApiCalls:
    """The calls of one router. `methods` are those of its gRPC service, by name."""

    def __init__(
        self,
        methods: Mapping[str, tuple[str, type[Message], Method]],
        guard: ApiGuard,
        access: Access,
        clock: Clock,
    ) -> None:
        self._guard = guard
        self._access = access
        self._clock = clock
        self._by_word = {
            name.encode(): (_ON_OBJECTS[name], message, method)
            for name, (_, message, method) in methods.items()
            if name in _ON_OBJECTS
        }

    def operation(self, argv: list[bytes]) -> str:
        """Return the operation under which a call is counted."""
        named = self._by_word.get(argv[1]) if len(argv) > 1 else None
        return "other" if named is None else named[0].operation

    async def call(self, session: Session, argv: list[bytes]) -> bytes:
        """Carry out `MILENA.CALL method timeout_ms request [deadline_ms [user]]`, and return the response.

        Raises InvalidRequest, Overloaded for a call that arrives after its deadline, and as the methods do.
        """
        named = self._by_word.get(argv[1])
        if named is None:
            name = argv[1][:80].decode(errors="replace")
            allowed = ", ".join(word.decode() for word in self._by_word)
            raise InvalidRequest(f"method: got {name!r}; allowed: {allowed}; others are methods of gRPC")
        method, message, handler = named
        seconds = self._seconds(argv)
        try:
            request: Any = message.FromString(argv[3])
        except DecodeError:
            raise InvalidRequest(f"request: is not an encoded {message.__name__}") from None
        principal = session.principal
        if len(argv) == 6:
            name = argv[5].decode(errors="replace")
            principal = self._access.on_behalf_of(principal, name, session.addr, PORT)
        END_USER.set(self._access.forwarded_name(principal))
        filtered = self._guard.authorize(principal, method.name, request, session.addr, PORT)
        response = await handler(request, seconds)
        return response if filtered is None else filtered(response)

    def _seconds(self, argv: list[bytes]) -> float:
        """Return the seconds that a call has."""
        error = f"ERR timeout_ms: got {argv[2][:80].decode(errors='replace')!r}; allowed: 1 to {MAX_TIMEOUT_MS}"
        milliseconds = integer(argv[2], error)
        if not 1 <= milliseconds <= MAX_TIMEOUT_MS:
            raise CommandError(error)
        if len(argv) > 4 and argv[4]:
            shown = argv[4][:80].decode(errors="replace")
            left = integer(argv[4], f"ERR deadline_ms: got {shown!r}; allowed: whole numbers")
            left -= monotonic_ms(self._clock)
            if left <= 0:
                raise Overloaded(
                    f"retry-after-ms={RETRY_AFTER_MS} the call arrived {-left / 1000:.1f} s after its caller's "
                    "deadline; nothing was done"
                )
            milliseconds = min(milliseconds, left)
        if not milliseconds:
            raise DeadlineExceeded("the call's time was over before it was begun")
        return milliseconds / 1000
