"""Pure. The limits of users: requests a second (`rate:`) and bytes of requests and responses a second (`bytes:`).

Bytes are known when a request is done. So they are charged then, and the requests after it wait until the debt is
paid; a single request may be of any size.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

from milena_common.access.rules import User
from milena_common.api.errors import RateLimited
from milena_common.limits.token_bucket import TokenBucket


class _Limit:
    """The limits of one user; times are monotonic seconds."""

    def __init__(self, user: User, now: float) -> None:
        self.rates = user.rate, user.bytes_rate
        self._requests = TokenBucket(user.rate, now)
        self._paid_until = now - 1.0

    def take_request(self, now: float) -> float:
        """Take one request and return 0, or return the seconds until there is one."""
        if self._paid_until > now:
            return self._paid_until - now
        return self._requests.take_tokens(now)

    def charge(self, size: int, now: float) -> None:
        """Count `size` bytes: a second's worth of them may be ahead."""
        bytes_rate = self.rates[1]
        if bytes_rate:
            self._paid_until = max(self._paid_until, now - 1.0) + size / bytes_rate


class UserLimits:
    """The limits of all users by name. Users that are not limited take nothing here.

    `rejected` counts rejected requests.
    """

    def __init__(self) -> None:
        self._limits: dict[str, _Limit] = {}
        self.rejected = 0

    def admit(self, user: User, now: float) -> None:
        """Take one request of `user`. Raises RateLimited, with the seconds after which to repeat it."""
        if not user.rate and not user.bytes_rate:
            return
        wait = self._of(user, now).take_request(now)
        if wait:
            self.rejected += 1
            raise RateLimited(
                f"over the limits of user {user.name!r}, rate:{user.rate:.0f} bytes:{user.bytes_rate:.0f}; try "
                f"again in {ceil(wait * 1000)} ms; nothing was done",
                wait,
            )

    def charge(self, user: User, size: int, now: float) -> None:
        """Count `size` bytes of a request or response of `user`."""
        if user.bytes_rate:
            self._of(user, now).charge(size, now)

    def keep_users(self, users: Mapping[str, User]) -> None:
        """Drop the state of users that are not in `users` any more, or have other limits there."""
        for name, limit in tuple(self._limits.items()):
            user = users.get(name)
            if user is None or (user.rate, user.bytes_rate) != limit.rates:
                del self._limits[name]

    def _of(self, user: User, now: float) -> _Limit:
        limit = self._limits.get(user.name)
        if limit is None or limit.rates != (user.rate, user.bytes_rate):
            limit = self._limits[user.name] = _Limit(user, now)
        return limit
