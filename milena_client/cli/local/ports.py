"""Shell. Reserves free TCP ports on this machine against other clusters that start at the same time.

A chosen TCP port is free until its process listens, some hundred milliseconds later. Without a reservation: (1) two
clusters choose the same free port; (2) the processes of both start; (3) the second one cannot listen, and its
cluster ends. So a cluster binds, for every port that it chooses, the UDP port of the same number, which Milena does
not use: only one process can bind it, of any user, and the kernel releases it when the process ends in any way.
"""

from __future__ import annotations

import socket

HOST = "127.0.0.1"
_ATTEMPTS = 100


class Ports:
    """Reserves ports until `close`: the preferred one if it is free, another otherwise; no port twice."""

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
        # Checked after the reservation: a cluster that released the UDP port may have begun to listen before that.
        if not _is_free(port):
            held.close()
            return False
        self._held.append(held)
        return True

    def close(self) -> None:
        """Release all ports."""
        for held in self._held:
            held.close()
        self._held.clear()


def port_of(address: str) -> int:
    """Return the port of a ``host:port``."""
    return int(address.rpartition(":")[2])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # Closed connections in TIME_WAIT must not make a port count as used; a listener must.
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
