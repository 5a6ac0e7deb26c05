"""Coordination. One request to the owner of a key, and its reply as a future: for what is no connection."""

from __future__ import annotations

import asyncio
from typing import Final

from milena_common.api.errors import InternalError, InvalidRequest
from milena_common.forwarding.pending import Gathered, Pending, Request
from milena_common.forwarding.routing import Forwarded, in_protocol
from milena_common.limits.byte_budget import ByteBudget
from milena_common.resp.encoding import RESP3, Raw, command
from milena_common.resp.errors import from_resp
from milena_common.resp.in_flight import SMALL
from milena_common.resp.redis_replies import CommandError

_ERROR: Final = ord("-")
# Their code words are those of other errors too.
_AS_IT_IS: Final = (InternalError, InvalidRequest)


class Call:
    """The client of one forwarded command, see `milena_common.forwarding.pending.Client`.

    reply: the encoded reply, in the client's protocol
    """

    __slots__ = ("_budget", "_protocol", "reply")

    def __init__(self, protocol: int, budget: ByteBudget) -> None:
        self._protocol = protocol
        self._budget = budget
        self.reply: asyncio.Future[Raw] = asyncio.get_running_loop().create_future()

    def finished(self, pending: Pending, reply: bytes) -> None:
        if self.reply.done():
            return
        if reply[0] == _ERROR:
            self.reply.set_exception(_error(reply[1:-2].decode(errors="replace")))
        elif isinstance(pending, Gathered):
            self.reply.set_result(Raw(reply))
        else:
            self.reply.set_result(Raw(in_protocol(reply, self._protocol)))

    def deferred(self, pending: Pending) -> None:
        """Do nothing: a command that waits holds up only those that conflict with it."""

    def keep(self, size: int) -> bool:
        return size < SMALL or self._budget.used <= self._budget.limit


def request_to_owner(
    budget: ByteBudget, forwarded: Forwarded, keys: list[bytes], argv: list[bytes], now: float
) -> tuple[Request, asyncio.Future[Raw]]:
    """Return a request for the owner of `keys`, which are cache keys of one slot, and its future reply, in RESP3.

    The future's exception is the owner's error. `now`: monotonic seconds.
    """
    call = Call(RESP3, budget)
    request = Request(call, forwarded, keys[0], command(*argv), now, sum(map(len, argv)))
    request.more_keys = keys[1:]
    return request, call.reply


def _error(line: str) -> Exception:
    """Return the error that a node replied with, which is to reach the client as it is."""
    error = from_resp(line)
    return CommandError(line) if isinstance(error, _AS_IT_IS) else error
