"""Coordination. SETs of one read that begin together: ordered, journaled and replied to as one batch.

A SET by itself costs a future, several callbacks and a pending reply, which is more than the write. Here a run of
SETs has one place in the order of replies and one callback, and each SET keeps its own version, record and result,
an error of its own included.

The run stops before the first SET that is not of this kind, which then goes the general way, in its place: one
whose effect or reply depends on the existing object, with wrong options, of a slot or a bucket that is not served,
in conflict with a command in flight, or one that cannot be acknowledged from the journal or memory at once. So no
error that the general path replies with is decided here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import Any

from milena_cache.objects.expiry import NEVER
from milena_cache.objects.write_request import Ack, Change
from milena_cache.servers.resp.commands.data.strings import timeout_of
from milena_cache.servers.resp.decisions.set_options import Options, plain_options, receipt_of
from milena_cache.servers.resp.decisions.timestamps import as_ms, as_timestamp
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.running import Running
from milena_cache.servers.resp.state.context import Context
from milena_cache.servers.resp.state.pending_replies import MAX_PENDING, PendingReply, encoded
from milena_cache.writes.batch import WriteBatch
from milena_common.api.durability import THROUGH
from milena_common.api.errors import MilenaError, Moved, TryAgain
from milena_common.api.keys import SCHEME
from milena_common.resp.command_ordering import CommandOrdering
from milena_common.resp.encoding import OK
from milena_common.resp.redis_replies import CommandError

SET = b"SET"
# SETs of one batch: less than 2 ms of work, which is not divided.
MAX_BATCH = 256


class _Begun:
    """A batch that has begun.

    argvs, options: of each SET
    writes: their results
    pending: their place in the order of replies
    ordering: that in which their keys are
    repeating: how many are carried out again because their slots were handed over; -1 before that
    """

    __slots__ = ("argvs", "options", "ordering", "pending", "repeating", "writes")

    writes: WriteBatch
    ordering: CommandOrdering[PendingReply]

    def __init__(self, pending: PendingReply) -> None:
        self.pending = pending
        self.argvs: list[list[bytes]] = []
        self.options: list[Options] = []
        self.repeating = -1


class SetBatches:
    """The batches of one connection."""

    def __init__(self, context: Context, session: Session, running: Running) -> None:
        self._context = context
        self._session = session
        self._running = running
        self._now = context.clock.now
        self._command = context.commands[SET]
        self._no_options = Options()
        # Those of the latest SET that had any: a client's are mostly the same.
        self._tail: list[bytes] = []
        self._options: Options | None = self._no_options
        # Of the classes of which all receipts are the same.
        self._receipts: dict[str, bytes] = {}

    def begin_sets(self, commands: Iterable[list[bytes]]) -> int:
        """Begin the first of `commands` as a batch; return how many. 0: the first one has to go the general way.

        The caller has made sure that a command may begin, and that no mode of the session changes its reply.
        """
        context, running = self._context, self._running
        begun: _Begun | None = None
        keys: list[bytes] = []
        max_number = min(MAX_BATCH, MAX_PENDING - running.in_flight.number)
        place = context.requests.place
        # Those of the SET before: most of a batch have the same options.
        known: Options | None = None
        expires_at, timeout = NEVER, context.timeout
        ordered = bool(running.pending)
        for argv in commands:
            if argv[0] != SET or len(argv) < 3 or len(keys) == max_number:
                break
            options = self._no_options if len(argv) == 3 else self._options_of(argv)
            key = argv[1]
            if options is None or key.startswith(SCHEME) or (ordered and running.conflicts("write", [key])):
                break
            try:
                target, owned_since = place("", key)
                if options is not known:
                    expires_at = self._expires_at(options) if options.expiry_option else NEVER
                    timeout = timeout_of(context, self._session, options)
                    known = options
            except (MilenaError, CommandError):
                break
            if begun is None:
                running.at = self._now()
                begun = _Begun(PendingReply(None, self._command, "set", [], running.at))
                begun.writes = WriteBatch(context.node.writes, partial(self._finished, begun))
            change = Change(target, argv[2], owned_since=owned_since, expires_at=expires_at)
            if not begun.writes.add(change, options.durability, timeout):
                break
            keys.append(key)
            begun.argvs.append(argv)
            begun.options.append(options)
            if options.receipt:
                context.requests.received_bytes += len(argv[2])
        if begun is None or not keys:
            return 0
        self._session.commands += len(keys)
        self._session.last_command = "set"
        if begun.writes.seal():
            lines = self._encoded(begun)
            metrics, began = self._context.command_metrics, begun.pending.started
            metrics.replied_many(self._command, begun.argvs, self._session, began)
            running.add_reply((b"".join(lines),))
        else:
            begun.ordering = running.begin_batch(begun.pending, begun.argvs, keys)
        return len(keys)

    def _options_of(self, argv: list[bytes]) -> Options | None:
        tail = argv[3:]
        if tail != self._tail:
            self._tail, self._options = tail, plain_options(argv)
        return self._options

    def _expires_at(self, options: Options) -> float:
        expires_ms = options.expires_ms("set", as_ms(self._context.clock.wall()))
        return as_timestamp(expires_ms) if expires_ms else NEVER

    def _finished(self, begun: _Begun) -> None:
        """Reply, now that all results are there; first repeat the SETs whose slots were handed over meanwhile."""
        results = begun.writes.results
        if begun.repeating < 0:
            begun.repeating = 0
            for number, result in enumerate(results):
                if isinstance(result, TryAgain):
                    begun.repeating += 1
                    self._repeat(begun, number, result)
                elif isinstance(result, Moved):
                    self._forward(begun, number)
            if begun.repeating:
                return
        self._running.finish_batch(begun.pending, begun.argvs, begun.ordering, self._encoded(begun))

    def _repeat(self, begun: _Begun, number: int, error: TryAgain) -> None:
        context, argv = self._context, begun.argvs[number]

        def begin() -> Any:
            return self._command.handler(context, self._session, argv)

        task = asyncio.get_running_loop().create_task(context.slot_waiters.repeat(begin, error))
        task.add_done_callback(partial(self._repeated, begun, number))

    def _forward(self, begun: _Begun, number: int) -> None:
        """Send a SET whose slot has moved while it waited to the new owner, if its client does not follow MOVED."""
        forwarder, session = self._context.forwarder, self._session
        if forwarder is None or not session.forwards:
            return
        future = forwarder.forward(session, begun.argvs[number], begun.pending.started)
        if future is not None:
            begun.repeating += 1
            future.add_done_callback(partial(self._repeated, begun, number, forwarded=True))

    def _repeated(self, begun: _Begun, number: int, task: asyncio.Future[Any], *, forwarded: bool = False) -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        begun.writes.results[number] = task.result() if error is None else error
        if isinstance(error, Moved) and not forwarded:
            self._forward(begun, number)
        begun.repeating -= 1
        if not begun.repeating:
            self._finished(begun)

    # ---- replies

    def _encoded(self, begun: _Begun) -> list[bytes]:
        """Return the reply to each SET, and count errors."""
        return [
            OK if type(result) is Ack and not options.receipt else self._line(argv, options, result)
            for argv, options, result in zip(begun.argvs, begun.options, begun.writes.results, strict=True)
        ]

    def _line(self, argv: list[bytes], options: Options, result: Any) -> bytes:
        if type(result) is Ack:
            if result.durability == THROUGH:
                return receipt_of(result, self._context.api.address)
            line = self._receipts.get(result.durability)
            if line is None:
                line = self._receipts[result.durability] = receipt_of(result, self._context.api.address)
            return line
        if isinstance(result, BaseException):
            encrypted = self._session.encrypted
            return self._context.command_metrics.error_reply(
                result, self._command, "set", argv, encrypted=encrypted
            )
        return b"".join(encoded(result, self._session.protocol))
