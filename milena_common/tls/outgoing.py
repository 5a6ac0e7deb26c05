"""Pure. Which of the addresses of another process is called, where it has plain and encrypted ones."""

from __future__ import annotations

from typing import NamedTuple

from milena_common.tls.certificates import Certificates
from milena_common.tls.settings import Mode


class Outgoing(NamedTuple):
    """How a router or node connects to others.

    mode: "on": with TLS only; "both": with TLS where the other one has it; "off": without, where it has that
    certificates: None if this process has none
    """

    mode: Mode = "off"
    certificates: Certificates | None = None

    def choose(self, plain: str, encrypted: str) -> tuple[str, Certificates | None]:
        """Return the address to call, and what encrypts the connection; ("", None) if neither may be called.

        `plain`, `encrypted`: the addresses of the other process without and with TLS, "" for none.
        """
        certificates = self.certificates
        if certificates is not None and encrypted and (self.mode != "off" or not plain):
            return encrypted, certificates
        return ("", None) if self.mode == "on" else (plain, None)


PLAIN = Outgoing()
