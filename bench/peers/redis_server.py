"""Shell. A Redis server: the peer of a node's RESP server, and with a journal that of a node's journal.

It is started empty on a free port. `why_not` returns what is missing on machines without Redis.
"""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

from milena_common.tls.settings import TlsFiles
from tests.support.ports import ReservedPort
from tests.support.processes import Process

# `Process` starts Python; this code replaces that process by another program.
_BECOME = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"


def why_not(*, client: bool) -> str:
    """Return what is missing for measuring Redis, with redis-py as its `client` or without; "" if nothing."""
    if shutil.which("redis-server") is None:
        return "redis-server is not installed"
    if client and find_spec("redis") is None:
        return "redis-py is not installed (pip install redis[hiredis])"
    return ""


class RedisServer(Process):
    """redis-server, empty. If `durable`, each write is on disk, in `directory`, before it is acknowledged.

    `tls`: files for a second port, with TLS, at `tls_address`.
    """

    def __init__(self, directory: Path, *, durable: bool, tls: TlsFiles | None = None) -> None:
        self._port, self._tls_port = ReservedPort(), ReservedPort()
        self.address, self.tls_address = self._port.address, self._tls_port.address
        settings = {
            "port": str(self._port.number),
            "bind": "127.0.0.1",
            "save": "",
            "appendonly": "yes" if durable else "no",
            "appendfsync": "always",
            # No rewrite of the file during a measurement.
            "auto-aof-rewrite-percentage": "0",
        }
        if tls is not None:
            settings |= {
                "tls-port": str(self._tls_port.number),
                "tls-cert-file": tls.certificate,
                "tls-key-file": tls.key,
                "tls-ca-cert-file": tls.authorities,
                "tls-auth-clients": "no",
            }
        arguments = [text for name, value in settings.items() for text in (f"--{name}", value)]
        super().__init__("redis", ["-c", _BECOME, "redis-server", *arguments], {}, directory)
        try:
            self.wait_for_log("Ready to accept connections")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        super().close()
        self._port.close()
        self._tls_port.close()
