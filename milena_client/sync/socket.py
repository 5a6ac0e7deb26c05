"""Shell. One blocking connection to a node in the Redis protocol, for one thread.

Sending a GET and reading its value are two system calls, and little more: the time limit is the socket's own
(SO_RCVTIMEO; Python's would poll before each call), and a plain value is taken apart here. Whatever else comes goes
through hiredis. A large value is received into the object that is returned, as far as possible.

An answer that was not read to its end would be taken for that of the next command. So whatever happens in between,
Ctrl-C too, ends the connection.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Final, cast

import hiredis

from milena_common.api.errors import DeadlineExceeded, MilenaError, NodeLost, WrongNode
from milena_common.resp.client_commands import Deferred, error_of

_READ_BYTES = 64 * 1024
# Beyond this, commands are sent one by one: a copy would cost more.
_JOIN_BYTES = 256 * 1024
_DOLLAR = ord("$")
# The system's limit may be so much longer than the time that is left: telling it costs two calls.
_NEARLY = 1.05
_LOOK: Final = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)
_NOT_ENOUGH: Final = object()


class RespSocket:
    """A connection to `address` (as `socket.connect` takes it).

    Raises NodeLost if it cannot be made within `connect` seconds, WrongNode if another node is there.
    `commands` begin the connection, and must succeed; `who` begins the text of every error.
    """

    __slots__ = (
        "__weakref__",
        "_deadline",
        "_limit",
        "_pushed",
        "_reader",
        "_recv",
        "_send",
        "_socket",
        "_timeout",
        "_who",
        "closed",
        "lasting",
        "process",
    )

    def __init__(self, family: int, address: Any, commands: Sequence[bytes], connect: float, who: str) -> None:
        self._who = who
        self.closed = False
        self.lasting = False  # whether what is under way must not be broken off
        self.process = os.getpid()
        self._timeout = self._limit = 0.0
        self._deadline = 0.0
        self._pushed: dict[int, Any] = {}  # deferred answers that nobody has waited for yet
        self._reader = hiredis.Reader(
            replyError=cast("Callable[[str], Exception]", error_of), notEnoughData=_NOT_ENOUGH
        )
        try:
            self._socket = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            raise NodeLost(f"{who}cannot be reached: {error}") from None
        self._recv = self._socket.recv
        self._send = self._socket.send
        try:
            self._socket.settimeout(connect)
            self._socket.connect(address)
            self._socket.settimeout(None)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self.send(commands, connect)
            for answer in self.receive(len(commands)):
                if isinstance(answer, Exception):
                    raise answer
        except WrongNode as error:
            self.close()
            raise WrongNode(f"{who}is not at its address: {error}") from None
        except (OSError, MilenaError) as error:
            self.close()
            raise NodeLost(f"{who}cannot be reached: {error}") from None
        except BaseException:
            self.close()
            raise

    def ask(self, command: bytes, timeout: float) -> Any:
        """The answer to `command` within `timeout` seconds; an error answer is returned.

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
                        return self._large(data, head + 2, missing)
            if not data:
                raise ConnectionError("closed by the node")
            self._reader.feed(data)
            return self._answer()
        except BaseException as error:
            self.close()
            raise self._meaning(error) from None

    def ended(self) -> bool:
        """Whether the node has ended the connection, as far as can be seen without waiting."""
        try:
            return not self._recv(1, _LOOK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def send(self, commands: Sequence[bytes], timeout: float) -> None:
        """Send `commands`, whose answers `receive` takes within `timeout` seconds; nothing may come in between.

        They must be few or small: nothing is read meanwhile. Raises as `ask`.
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
            raise self._meaning(error) from None

    def _send_rest(self, command: bytes, sent: int) -> None:
        """Send `command` from the byte `sent` on, within what is left of the time.

        The system's limit is for each call alone, and a node may take a little in each.
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
        """The answers to the `number` commands that were sent, and errors in place of those that did not come."""
        answers: list[Any] = []
        try:
            for _ in range(number):
                answers.append(self._next())
            for place, answer in enumerate(answers):
                if isinstance(answer, Deferred):
                    answers[place] = self._deferred(answer)
        except BaseException as error:
            self.close()
            reason = self._meaning(error)
            if not isinstance(reason, MilenaError):
                raise reason from None
            answers += [reason] * (number - len(answers))
            return [self._pushed.get(each, reason) if isinstance(each, Deferred) else each for each in answers]
        return answers

    def _answer(self) -> Any:
        answer = self._next()
        return self._deferred(answer) if isinstance(answer, Deferred) else answer

    def _next(self) -> Any:
        """The next answer in the order of commands."""
        while True:
            answer = self._reader.gets()
            if answer is _NOT_ENOUGH:
                self._more()
            elif not isinstance(answer, hiredis.PushNotification):
                return answer
            elif answer[0] == b"deferred":
                self._pushed[answer[1]] = answer[2]

    def _deferred(self, number: int) -> Any:
        """The answer that comes as a push."""
        while number not in self._pushed:
            answer = self._reader.gets()
            if answer is _NOT_ENOUGH:
                self._more()
            elif not isinstance(answer, hiredis.PushNotification):
                raise ConnectionError("an answer to nothing")
            elif answer[0] == b"deferred":
                self._pushed[answer[1]] = answer[2]
        return self._pushed.pop(number)

    def _more(self) -> None:
        self._reader.feed(self._receive(_READ_BYTES))

    def _large(self, data: bytes, start: int, missing: int) -> bytes:
        """The value that begins in `data` at `start`; `missing` bytes, its line end among them, are to come."""
        parts: list[bytes | memoryview] = [memoryview(data)[start:]]
        while missing:
            # The line end is received by itself, so that it need not be cut off by copying.
            part = self._receive(missing - 2 if missing > 2 else missing, socket.MSG_WAITALL)
            if missing > 2:
                parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def _receive(self, size: int, flags: int = 0) -> bytes:
        """Some bytes, within what is left of the time; when it is over, what has come until then.

        A limit for each read alone would never end for a node that sends a byte now and then.
        """
        left = self._deadline - monotonic()
        if left <= 0:
            flags = socket.MSG_DONTWAIT
        elif self._limit > _NEARLY * left:
            self._set_limit(left)
        data = self._recv(size, flags)
        if not data:
            raise ConnectionError("closed by the node")
        return data

    def _set_limit(self, seconds: float) -> None:
        """How long the system lets a thread wait to send or to receive."""
        self._limit = seconds
        whole = int(seconds)
        # Zero would mean for ever.
        span = struct.pack("@ll", whole, max(1, int((seconds - whole) * 1_000_000)))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, span)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, span)

    def _meaning(self, error: BaseException) -> BaseException:
        if isinstance(error, BlockingIOError):
            return DeadlineExceeded(f"{self._who}did not answer within {self._timeout:.3g} s")
        if isinstance(error, MilenaError):
            return error
        if isinstance(error, OSError | hiredis.ProtocolError | ValueError):
            return NodeLost(f"{self._who}broke off the connection: {error}")
        return error

    def shutdown(self, *, lasting: bool = False) -> None:
        """End the connection; to be called from any thread. Its own then raises NodeLost.

        `lasting`: let a call finish that must not be broken off. Who makes one says so first (`lasting`), and looks
        then whether the connection is `closed`.
        """
        self.closed = True
        if lasting and self.lasting:
            return
        if self.process != os.getpid():
            return  # it is the other process's to end
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection, for this process."""
        self.closed = True
        self._socket.close()

    def __del__(self) -> None:
        # A thread ended, and its connections with it.
        with suppress(AttributeError):  # there never was one
            self._socket.close()
