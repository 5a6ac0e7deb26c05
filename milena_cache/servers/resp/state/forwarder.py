"""Coordination. Commands of this node's clients on keys of other nodes: sent there, split and merged.

A client that follows no MOVED, as every one that is not for Redis Cluster, may use any node (RESP_FORWARD). Its
commands are admitted here, once: permissions and rate limits are this node's, and the owner gets the command from
the cluster's own identity. What one command does to keys of several nodes becomes one command for each key, as at
a router (`milena_common.forwarding.routing`); those of them that this node owns are carried out here.

The order of a client's commands, and their bounds, are those of every command (`running`): one that is forwarded is
a command that waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from milena_cache.membership.ownership import ELSEWHERE, Ownership
from milena_cache.membership.topology import NodeTopology
from milena_cache.objects.names import Buckets
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.pending_replies import encoded
from milena_cache.servers.resp.statistics.command_metrics import encoded_error
from milena_common.api.errors import Moved, TryAgain
from milena_common.cluster.slots import slot_of
from milena_common.forwarding.call import Call, request_to_owner
from milena_common.forwarding.pending import Gathered, Part, Request
from milena_common.forwarding.routing import Forwarded, canonical, check_one_slot, find, split
from milena_common.forwarding.scripts import Scripts
from milena_common.forwarding.upstreams import Upstreams
from milena_common.limits.byte_budget import ByteBudget
from milena_common.resp.encoding import RESP3, Raw, command

# Bytes of the reply to one command on several keys.
MAX_REPLY_BYTES: Final = 64 * 2**20
# Parts of one command that begin in one step of the event loop.
PARTS_AT_ONCE: Final = 512


class Forwarder:
    """The forwarded commands of one node. `run` carries out a command here, as its handler does."""

    def __init__(
        self,
        ownership: Ownership,
        topology: NodeTopology,
        upstreams: Upstreams,
        buckets: Buckets,
        scripts: Scripts,
        budget: ByteBudget,
        run: Callable[[Session, list[bytes]], Any],
    ) -> None:
        self._ownership = ownership
        self._topology = topology
        self._buckets = buckets
        self._scripts = scripts
        self._budget = budget
        self._run = run
        self._tasks: set[asyncio.Future[Any]] = set()
        self.upstreams = upstreams

    def cache_keys(self, keys: list[bytes]) -> list[bytes]:
        """Return the cache keys of the objects that a client calls `keys`."""
        default = self._buckets.default
        return [canonical(key, default) for key in keys]

    def is_elsewhere(self, keys: list[bytes]) -> bool:
        """True if another node owns one of `keys`."""
        ownership = self._ownership
        since = ownership.since
        for key in keys:
            slot = slot_of(canonical(key, self._buckets.default))
            if since[slot] == ELSEWHERE and isinstance(ownership.elsewhere(slot), Moved):
                return True
        return False

    def splits(self, argv: list[bytes]) -> bool:
        """True if a command may have keys of several slots: it becomes one command for each key where necessary."""
        routed = find(argv)
        return routed is not None and routed.merge != "only"

    def forward(self, session: Session, argv: list[bytes], now: float) -> asyncio.Future[Raw] | None:
        """Carry out a command at the owners of its keys; None if it is of a kind that is not forwarded.

        The future's exception is what the command raises. Raises CommandError and InvalidRequest, when nothing was
        sent. `now`: monotonic seconds.
        """
        routed = find(argv)
        if routed is None:
            return None
        if routed.is_script:
            argv = self._scripts.as_eval(argv)
        default = self._buckets.default
        parts = split(routed, argv)
        size = sum(map(len, argv))
        call = Call(session.protocol, self._budget)
        if routed.merge == "only":
            keys = [canonical(key, default) for key in routed.keys_in(argv)]
            check_one_slot(keys)
            key = keys[0]
            request = Request(call, routed, key, command(*argv), now, size)
            request.more_keys = keys[1:]
            self._begin(request, session, argv)
            return call.reply
        whole = Gathered(call, routed, now, size, len(parts), session.protocol, MAX_REPLY_BYTES)
        self._begin_parts(
            session,
            [
                (Part(whole, place, routed, canonical(key, default), command(*part)), part)
                for place, (key, part) in enumerate(parts)
            ],
        )
        return call.reply

    def request(
        self, routed: Forwarded, keys: list[bytes], argv: list[bytes], now: float, run_here: Callable[[], Any]
    ) -> asyncio.Future[Raw]:
        """Have the owner of `keys`, cache keys of one slot, carry out a command between nodes.

        `run_here`: carries it out here, if this node owns them by now. The reply is in RESP3.
        Otherwise as `forward`.
        """
        request, reply = request_to_owner(self._budget, routed, keys, argv, now)
        request.run_here = partial(self._run_part, request, run_here)
        if not self._topology.take(request):
            self.upstreams.send_request(request)
        return reply

    def _begin_parts(self, session: Session, parts: list[tuple[Part, list[bytes]]]) -> None:
        for part, argv in parts[:PARTS_AT_ONCE]:
            self._begin(part, session, argv)
        if len(parts) > PARTS_AT_ONCE:
            asyncio.get_running_loop().call_soon(self._begin_parts, session, parts[PARTS_AT_ONCE:])

    def _begin(self, request: Request, session: Session, argv: list[bytes]) -> None:
        request.run_here = partial(self._run_part, request, partial(self._run, session, argv))
        if not self._topology.take(request):
            self.upstreams.send_request(request)

    # ---- what this node owns

    def _run_part(self, request: Request, run: Callable[[], Any]) -> None:
        """Carry out a request whose key this node owns."""
        try:
            result = run()
        except Exception as error:
            self._failed(request, error)
            return
        if type(result) is not bytes and isinstance(result, Coroutine | asyncio.Future):
            task: asyncio.Future[Any] = (
                result if isinstance(result, asyncio.Future) else asyncio.get_running_loop().create_task(result)
            )
            self._tasks.add(task)
            task.add_done_callback(partial(self._finished, request))
        else:
            request.replied(b"".join(encoded(result, RESP3)))

    def _finished(self, request: Request, task: asyncio.Future[Any]) -> None:
        self._tasks.discard(task)
        try:
            result = task.result()
        except (Exception, asyncio.CancelledError) as error:
            self._failed(request, error)
        else:
            request.replied(b"".join(encoded(result, RESP3)))

    def _failed(self, request: Request, error: BaseException) -> None:
        line = encoded_error(error)[0]
        if isinstance(error, Moved | TryAgain):
            self.upstreams.node_rejected(request, line)  # nothing was done: it follows the slot
        else:
            request.replied(line)
