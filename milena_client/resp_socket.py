"""Shell. One blocking connection to a node in the Redis protocol, for one thread.

Sending a GET and reading its value are two system calls, and little more: the time limit is the socket's own
(SO_RCVTIMEO; Python's would poll before each call), and a plain value is taken apart here. Whatever else comes goes
through hiredis. A large value is received into the object that is returned, as far as possible.

An answer that was not read to its end would be taken for that of the next command. So whatever happens in between,
Ctrl-C too, ends the connection.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import hiredis

from milena_client.resp_wire import Deferred, error_of
from milena_common.errors import DeadlineExceeded, MilenaError, NodeLost

_READ_BYTES = 64 * 1024
_DOLLAR = ord("$")
_NOT_ENOUGH: Final = object()


class RespSocket:
    """A connection to `address` (as `socket.connect` takes it). Raises NodeLost if there is none within `timeout`.

    `timeout` is in seconds and for each answer, until another one is set. `commands` begin the connection, and must
    succeed; `who` begins the text of every error.
    """

    __slots__ = ("__weakref__", "_reader", "_recv", "_send", "_socket", "_timeout", "_who", "closed")

    def __init__(
        self, family: int, address: Any, commands: Sequence[bytes], timeout: float, connect: float, who: str
    ) -> None:
        self._who = who
        self.closed = False
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._recv = self._socket.recv
        self._send = self._socket.sendall
        self._reader = hiredis.Reader(
            replyError=cast("Callable[[str], Exception]", error_of), notEnoughData=_NOT_ENOUGH
        )
        try:
            self._socket.settimeout(connect)
            self._socket.connect(address)
            self._socket.settimeout(None)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._timeout = 0.0
            self.set_timeout(connect)
            for answer in self.exchange(commands):
                if isinstance(answer, Exception):
                    raise answer
            self.set_timeout(timeout)
        except (OSError, MilenaError) as error:
            self.close()
            raise NodeLost(f"{who}cannot be reached: {error}") from None
        except BaseException:
            self.close()
            raise

    def set_timeout(self, seconds: float) -> None:
        """How long sending, and waiting for each answer, may take from now on."""
        if seconds != self._timeout:
            self._timeout = seconds
            whole = int(seconds)
            # Zero would mean for ever.
            span = struct.pack("ll", whole, max(1, int((seconds - whole) * 1_000_000)))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, span)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, span)

    def ask(self, command: bytes) -> Any:
        """The answer to `command`; an error answer is returned.

        Raises NodeLost or DeadlineExceeded, and the connection is closed then.
        """
        try:
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
            return self._read(data)
        except BaseException as error:
            self.close()
            raise self._meaning(error) from None

    def exchange(self, commands: Sequence[bytes]) -> list[Any]:
        """The answers to `commands`, which should be few or small. As `ask`."""
        self.send(commands)
        return self.receive(len(commands))

    def send(self, commands: Sequence[bytes]) -> None:
        """The first half of `exchange`: what is sent must be received before anything else is."""
        try:
            self._send(b"".join(commands))
        except BaseException as error:
            self.close()
            raise self._meaning(error) from None

    def receive(self, number: int) -> list[Any]:
        """The second half of `exchange`."""
        answers: list[Any] = []
        try:
            for _ in range(number):
                answers.append(self._next())
            for at, answer in enumerate(answers):
                if isinstance(answer, Deferred):
                    answers[at] = self._deferred(answer, answers)
        except BaseException as error:
            self.close()
            raise self._meaning(error) from None
        return answers

    def _large(self, data: bytes, start: int, missing: int) -> bytes:
        """The value of which `missing` bytes have not come, with its line end; it begins in `data` at `start`."""
        parts: list[bytes | memoryview] = [memoryview(data)[start:]]
        missing -= 2
        while missing:
            part = self._recv(missing, socket.MSG_WAITALL)
            if not part:
                raise ConnectionError("the node broke off an answer")
            parts.append(part)
            missing -= len(part)
        for _ in range(2):
            if not self._recv(1):
                raise ConnectionError("the node broke off an answer")
        return b"".join(parts)
