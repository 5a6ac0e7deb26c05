"""Shell. Free TCP ports on this machine."""

from __future__ import annotations

import socket

HOST = "127.0.0.1"


class Ports:
    """Hands out each port once: the wanted one if it is free, another otherwise."""

    def __init__(self) -> None:
        self._taken: set[int] = set()

    def take(self, wanted: int) -> int:
        """A port nobody listens on. Somebody else may still be quicker to take it."""
        port = wanted if wanted not in self._taken and _is_free(wanted) else _any_free()
        while port in self._taken:
            port = _any_free()
        self._taken.add(port)
        return port


def port_of(address: str) -> int:
    """The port of a ``host:port``."""
    return int(address.rpartition(":")[2])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # Connections that are long over do not keep a port; a listener does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _any_free() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
