"""Shell. Free TCP ports on 127.0.0.1 that stay free until their user binds them."""

from __future__ import annotations

import socket
import sys


class ReservedPort:
    """A port number that the system hands out to no other socket while this object is open.

    Asking for a free port, closing it and binding it later is a race: in between, any outgoing connection may be
    given it. Here the socket stays bound and never listens, so the port is taken as far as the system's choice
    goes, connections to it are refused, and a server that sets SO_REUSEADDR (asyncio, gRPC and werkzeug do) may
    still listen on it, as often as it likes. Only Linux allows that last thing; elsewhere the race remains.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.number: int = self._socket.getsockname()[1]
        if sys.platform != "linux":
            self._socket.close()

    @property
    def address(self) -> str:
        """``127.0.0.1:port``."""
        return f"127.0.0.1:{self.number}"

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> ReservedPort:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ReservedPorts:
    """`number` consecutive port numbers on 127.0.0.1, held like a `ReservedPort` while this object is open."""

    def __init__(self, number: int) -> None:
        for _ in range(100):
            self._sockets: list[socket.socket] = []
            try:
                self._hold(0)
                self.first: int = self._sockets[0].getsockname()[1]
                for each in range(1, number):
                    self._hold(self.first + each)
                return
            except (OSError, OverflowError):
                self.close()
        raise RuntimeError(f"no {number} consecutive ports are free")

    def _hold(self, port: int) -> None:
        held = socket.socket()
        self._sockets.append(held)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", port))
        if sys.platform != "linux":
            held.close()

    def close(self) -> None:
        for each in self._sockets:
            each.close()

    def __enter__(self) -> ReservedPorts:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
