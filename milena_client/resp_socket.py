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

from milena_client.resp_wire import Deferred, error_of
from milena_common.errors import DeadlineExceeded, MilenaError, NodeLost

_READ_BYTES = 64 * 1024
# Beyond this, commands are sent one by one: a copy would cost more.
_JOIN_BYTES = 256 * 1024
_DOLLAR = ord("$")
_NOT_ENOUGH: Final = object()


class RespSocket:
    """A connection to `address` (as `socket.connect` takes it).

    Raises NodeLost if it cannot be made within `connect` seconds.
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
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._recv = self._socket.recv
        self._send = self._socket.sendall
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
            if timeout != self._limit:
                self._set_limit(timeout)
            self._timeout = timeout
            self._deadline = monotonic() + timeout
            self._send(command)
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
            return not self._recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def send(self, commands: Sequence[bytes], timeout: float) -> None:
        """Send `commands`, whose answers `receive` takes within `timeout` seconds; nothing may come in between.

        They must be few or small: nothing is read meanwhile. Raises as `ask`.
        """
        try:
            if timeout != self._limit:
                self._set_limit(timeout)
            self._timeout = timeout
            self._deadline = monotonic() + timeout
            for command in commands if sum(map(len, commands)) > _JOIN_BYTES else (b"".join(commands),):
                self._send(command)
        except BaseException as error:
            self.close()
            raise self._meaning(error) from None

    def receive(self, number: int) -> list[Any]:
        """The answers to the `number` commands that were sent; error answers among them. Raises as `ask`."""
        try:
            answers = [self._next() for _ in range(number)]
            return [self._deferred(answer) if isinstance(answer, Deferred) else answer for answer in answers]
        except BaseException as error:
            self.close()
            raise self._meaning(error) from None

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
        self._wait_for_the_rest()
        data = self._recv(_READ_BYTES)
        if not data:
            raise ConnectionError("closed by the node")
        self._reader.feed(data)

    def _large(self, data: bytes, start: int, missing: int) -> bytes:
        """The value that begins in `data` at `start`; `missing` bytes, its line end among them, are to come."""
        parts: list[bytes | memoryview] = [memoryview(data)[start:]]
        while missing:
            self._wait_for_the_rest()
            # The line end is received by itself, so that it need not be cut off by copying.
            part = self._recv(missing - 2 if missing > 2 else missing, socket.MSG_WAITALL)
            if not part:
                raise ConnectionError("closed by the node")
            if missing > 2:
                parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def _wait_for_the_rest(self) -> None:
        """A limit for each read would never end for a node that sends a byte now and then."""
        left = self._deadline - monotonic()
        if left <= 0:
            raise BlockingIOError
        if left < 0.9 * self._limit:
            self._set_limit(left)

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

    def shutdown(self) -> None:
        """End the connection; to be called from any thread. Its own then raises NodeLost."""
        self.closed = True
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
        self._socket.close()
