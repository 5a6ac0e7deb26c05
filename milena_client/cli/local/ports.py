"""Shell. Free TCP ports on this machine, reserved against other clusters that are started at the same moment.

A TCP port is free until the process that it is meant for listens, some hundred milliseconds after it was
chosen. Two clusters that were started together chose the same ports, and one of them ended. So each holds, for
every port that it has chosen, the UDP port of the same number, which nothing else here uses: only one process
can, for any user, and the system lets go of it when the process ends, however that happens.
"""

from __future__ import annotations

import socket

HOST = "127.0.0.1"
_ATTEMPTS = 100


class Ports:
    """Hands out each port once: the preferred one if it is free, another otherwise. Reserves them until `close`."""

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def take_port(self, preferred: int) -> int:
        """Reserve and return a port on which no process listens. Raises OSError if none can be found."""
        port = preferred
        for _ in range(_ATTEMPTS):
            if self._reserve(port):
                return port
            port = _any_free()
        raise OSError(f"no free port was found in {_ATTEMPTS} attempts")

    def _reserve(self, port: int) -> bool:
        held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            held.bind((HOST, port))
        except OSError:  # another cluster has reserved it
            held.close()
            return False
        # Only now: one that has let go of it may have begun to listen in between.
        if not _is_free(port):
            held.close()
            return False
        self._held.append(held)
        return True

    def close(self) -> None:
        """Let go of all ports."""
        for held in self._held:
            held.close()
        self._held.clear()


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
