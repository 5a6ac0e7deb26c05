"""Shell. A client of the Redis protocol that shows the bytes of each reply."""

from __future__ import annotations

import socket
from typing import Any, Self

import hiredis

from milena_common.resp.encoding import command
from milena_common.resp.parser import split_inline

SECONDS = 30.0


class Wire:
    """One connection; a context manager. A reply of a connection that has ended is what came before its end."""

    def __init__(self, address: str) -> None:
        host, port = address.rsplit(":", 1)
        self._socket = socket.create_connection((host, int(port)), timeout=SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def say(self, line: str) -> bytes:
        """The reply to a command that is written as for redis-cli."""
        argv = split_inline(line.encode())
        assert argv is not None, line
        return self.send(command(*argv))

    def send(self, data: bytes, replies: int = 1) -> bytes:
        """What comes back for `data`, until there are so many replies or the connection ends."""
        self._socket.sendall(data)
        reader = hiredis.Reader()
        taken = b""
        while True:
            while replies and reader.gets() is not False:
                replies -= 1
            if not replies:
                return taken
            try:
                new = self._socket.recv(65536)
            except ConnectionResetError:
                return taken
            if not new:
                return taken
            taken += new
            reader.feed(new)


def parsed(reply: bytes) -> Any:
    """The first of the replies; an error is `hiredis.ReplyError`, and False if there is none."""
    reader = hiredis.Reader()
    reader.feed(reply)
    return reader.gets()
