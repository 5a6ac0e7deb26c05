"""Shell. One blocking connection to a node in the Redis protocol, for one thread.

Sending a GET and reading its value are two system calls, and little more: the time limit is that of the stream,
which is set only when it changes, and a plain value is parsed here. All other replies go through hiredis. A large
value is received into the object that is returned, as far as possible.

A reply that was not read to its end would be taken for that of the next command. So any interruption of a read,
Ctrl-C included, closes the connection.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final, cast

import hiredis

from milena_common.api.errors import DeadlineExceeded, MilenaError, NodeLost, WrongNode
from milena_common.network.stream import Stream
from milena_common.resp.client_commands import Deferred, NodeCall, error_of, takes_sets
from milena_common.resp.peer_clock import PeerClock

_READ_BYTES = 64 * 1024
# Beyond this, commands are sent one by one: a copy would cost more.
_JOIN_BYTES = 256 * 1024
_DOLLAR = ord("$")
# The stream's limit may be so much longer than the time that is left: setting it costs two system calls.
_NEARLY = 1.05
_NOT_ENOUGH: Final = object()


def _new_reader() -> hiredis.Reader:
    return hiredis.Reader(replyError=cast("Callable[[str], Exception]", error_of), notEnoughData=_NOT_ENOUGH)


class RespSocket:
    """A connection over `stream`, which it closes.

    - `handshake`: the commands that begin it, and must succeed.
    - `handshake_timeout`: the seconds for their replies.
    - `error_prefix`: begins the text of every error.
    - `hello`: that of `handshake` which returns the node's time (MILENA.HELLO); b"": calls carry no deadlines.
    - `closed`: True once it must not be used any more.
    - `peer_clock`: the node's clock, for the deadlines of calls.
    - `lasting`: True while a call is in flight that must not be broken off.
    - `takes_sets`: True if the node takes puts as SET, see `client_commands.takes_sets`.
    - `process`: the id of the process that made it.

    Raises NodeLost if the handshake fails, WrongNode if another node is there.
    """

    __slots__ = (
        "__weakref__",
        "_deadline",
        "_error_prefix",
        "_grown",
        "_hello",
        "_limit",
        "_pushed",
        "_reader",
        "_recv",
        "_send",
        "_stream",
        "_timeout",
        "closed",
        "lasting",
        "peer_clock",
        "process",
        "takes_sets",
    )

    def __init__(
        self,
        stream: Stream,
        handshake: Sequence[bytes],
        handshake_timeout: float,
        error_prefix: str,
        hello: bytes = b"",
    ) -> None:
        self._hello = hello
        self.takes_sets = False
        self.peer_clock = PeerClock()
        self._stream = stream
        # Looking them up for each call would cost more than the call itself has of Python.
        self._recv = stream.recv
        self._send = stream.send_some
        self._error_prefix = error_prefix
        self.closed = False
        self.lasting = False
        self.process = os.getpid()
        self._timeout = self._limit = 0.0
        self._deadline = 0.0
        self._pushed: dict[int, Any] = {}  # deferred replies that no call has taken yet, by number
        self._reader = _new_reader()
        self._grown = False  # the reader's buffer is large
        try:
            self.send(handshake, handshake_timeout)
            for number, (command, reply) in enumerate(zip(handshake, self.receive(len(handshake)), strict=True)):
                if isinstance(reply, Exception):
                    raise reply
                if command == hello:
                    self.peer_clock.observe(reply, monotonic())
                if not number:
                    self.takes_sets = takes_sets(reply)
        except WrongNode as error:
            self.close()
            raise WrongNode(f"{error_prefix}is not at its address: {error}") from None
        except (OSError, MilenaError) as error:
            self.close()
            raise NodeLost(f"{error_prefix}cannot be reached: {error}") from None
        except BaseException:
            self.close()
            raise

    def exchange(self, command: bytes, timeout: float) -> Any:
        """Send `command`, and return its reply within `timeout` seconds; an error reply is returned, not raised.

        Raises NodeLost or DeadlineExceeded, and the connection is closed then.
        """
        try:
            if not timeout <= self._limit <= _NEARLY * timeout:
                self._set_limit(timeout)
            self._timeout = timeout
            self._deadline = monotonic() + timeout
            sent = self._send(command)
            if sent < len(command):
                self._send_rest(command, sent)
            data = self._recv(_READ_BYTES)
            if data and data[0] == _DOLLAR:
                head = data.find(b"\r\n", 1, 16)
                if head > 0:
                    missing = int(data[1:head]) + head + 4 - len(data)
                    if missing == 0:
                        return data[head + 2 : -2]
                    if missing > 2:
                        return self._receive_large(data, head + 2, missing)
            if not data:
                raise ConnectionError("closed by the node")
            self._reader.feed(data)
            return self._reply()
        except BaseException as error:
            self.close()
            raise self._translated(error) from None

    def call_command(self, call: NodeCall, timeout: float) -> bytes:
        """Return the command of a call that is made within `timeout` seconds from now.

        That of a call that writes has a deadline, after which the node does not carry it out. Requests the
        node's time if that is due, and raises as `exchange` then.
        """
        if not call.writes:
            return call.command(timeout, None)
        now = monotonic()
        if self.peer_clock.needs_renewal(now):
            gives_up_at = now + timeout
            self.peer_clock.observe(self.exchange(self._hello, timeout), monotonic())
            now = monotonic()
            timeout = gives_up_at - now
        return call.command(timeout, self.peer_clock.deadline(now, timeout))

    def peer_closed(self) -> bool:
        """Return True if the node has ended the connection, as far as can be seen without waiting."""
        return self._stream.peer_closed()

    def send(self, commands: Sequence[bytes], timeout: float) -> None:
        """Send `commands`; `receive` must follow, which returns their replies within `timeout` seconds.

        They must be few or small, since nothing is read while they are sent. Raises as `exchange`.
        """
        try:
            if not timeout <= self._limit <= _NEARLY * timeout:
                self._set_limit(timeout)
            self._timeout = timeout
            self._deadline = monotonic() + timeout
            for command in commands if sum(map(len, commands)) > _JOIN_BYTES else (b"".join(commands),):
                self._send_rest(command, 0)
        except BaseException as error:
            self.close()
            raise self._translated(error) from None

    def _send_rest(self, command: bytes, sent: int) -> None:
        """Send `command` from the byte `sent` on, within the time that is left.

        The stream's limit is for each call alone, and a node may take a few bytes in each.
        """
        view = memoryview(command)
        while sent < len(command):
            left = self._deadline - monotonic()
            if left <= 0:
                raise BlockingIOError
            if self._limit > _NEARLY * left:
                self._set_limit(left)
            sent += self._send(view[sent:])

    def receive(self, number: int) -> list[Any]:
        """Return the replies to the `number` commands that were sent, and an error for each that did not come."""
        replies: list[Any] = []
        try:
            for _ in range(number):
                replies.append(self._next_reply())
            for place, reply in enumerate(replies):
                if isinstance(reply, Deferred):
                    replies[place] = self._deferred_reply(reply)
        except BaseException as error:
            self.close()
            reason = self._translated(error)
            if not isinstance(reason, MilenaError):
                raise reason from None
            replies += [reason] * (number - len(replies))
            return [self._pushed.get(each, reason) if isinstance(each, Deferred) else each for each in replies]
        return replies

    def _reply(self) -> Any:
        reply = self._next_reply()
        return self._deferred_reply(reply) if isinstance(reply, Deferred) else reply

    def _next_reply(self) -> Any:
        """Return the next reply in the order of commands; deferred ones that come before it are kept."""
        while True:
            reply = self._reader.gets()
            if reply is _NOT_ENOUGH:
                self._receive_more()
            elif not isinstance(reply, hiredis.PushNotification):
                self._drop_grown()
                return reply
            elif reply[0] == b"deferred":
                self._pushed[reply[1]] = reply[2]

    def _deferred_reply(self, number: int) -> Any:
        """Return the reply that comes as a push with `number`."""
        while number not in self._pushed:
            reply = self._reader.gets()
            if reply is _NOT_ENOUGH:
                self._receive_more()
            elif not isinstance(reply, hiredis.PushNotification):
                raise ConnectionError("a reply to no command")
            elif reply[0] == b"deferred":
                self._pushed[reply[1]] = reply[2]
        self._drop_grown()
        return self._pushed.pop(number)

    def _drop_grown(self) -> None:
        """Give up the reader's buffer if it is large and empty: it would keep the room of the largest reply."""
        if self._grown and not self._reader.has_data():
            self._reader, self._grown = _new_reader(), False

    def _receive_more(self) -> None:
        data = self._receive(_READ_BYTES, self._recv)
        if len(data) == _READ_BYTES:
            self._grown = True  # a large reply, or many
        self._reader.feed(data)

    def _receive_large(self, data: bytes, start: int, missing: int) -> bytes:
        """Return the value that begins in `data` at `start`; `missing` bytes are to come, its line end included."""
        parts: list[bytes | memoryview] = [memoryview(data)[start:]]
        while missing:
            # The line end is received by itself, so that it need not be cut off by copying.
            part = self._receive(missing - 2 if missing > 2 else missing, self._stream.recv_full)
            if missing > 2:
                parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def _receive(self, size: int, recv: Callable[[int], bytes]) -> bytes:
        """Return some bytes within the remaining time; if none remains, those that have arrived already.

        With a limit for each read alone, a node that sends a byte now and then would be waited for without end.
        """
        left = self._deadline - monotonic()
        if left <= 0:
            recv = self._stream.recv_ready
        elif self._limit > _NEARLY * left:
            self._set_limit(left)
        data = recv(size)
        if not data:
            raise ConnectionError("closed by the node")
        return data

    def _set_limit(self, seconds: float) -> None:
        """Set how long the stream lets this thread wait to send or to receive."""
        self._limit = seconds
        self._stream.set_limit(seconds)

    def _translated(self, error: BaseException) -> BaseException:
        """Return the MilenaError that `error` of the stream or the parser means; others as they are."""
        if isinstance(error, BlockingIOError):
            return DeadlineExceeded(f"{self._error_prefix}did not respond within {self._timeout:.3g} s")
        if isinstance(error, MilenaError):
            return error
        if isinstance(error, OSError | hiredis.ProtocolError | ValueError):
            return NodeLost(f"{self._error_prefix}broke off the connection: {error}")
        return error

    def shutdown(self, *, lasting: bool = False) -> None:
        """End the connection, from any thread. A call in flight raises NodeLost then.

        `lasting`: let a call finish that must not be broken off. Its thread sets `lasting` first, and reads
        `closed` then; here `closed` is set first, and `lasting` read then. In any other order both could miss the
        other: the thread would find the connection open, this would find no such call, and a write would be broken
        off.
        """
        self.closed = True
        if lasting and self.lasting:
            return
        if self.process != os.getpid():
            return  # it belongs to the parent, for which a shutdown would end it too
        self._stream.shutdown()

    def close(self) -> None:
        """End the connection, for this process."""
        self.closed = True
        self._stream.close()

    def __del__(self) -> None:
        self._stream.close()  # the thread that had it has ended
