"""Pure. What opening and accepting connections needs of TLS: Protocols that `milena_common.tls` implements."""

from __future__ import annotations

import ssl
from typing import NamedTuple, Protocol


class PeerChain(NamedTuple):
    """What the acceptance of a client's certificate rests on.

    authority: identifies the subject and the key of the authority at the end of the verified chain
    expires_at: when the first certificate of the chain expires, seconds since 1970
    """

    authority: bytes
    expires_at: float


class Security(Protocol):
    """How connections to servers are encrypted. The contexts are asked for anew for each connection."""

    def client_context(self) -> ssl.SSLContext:
        """Return what connections are opened with."""

    def server_name(self, host: str) -> str:
        """Return the name that the certificate of the server at `host` must have."""

    def failure(self, error: BaseException, host: str) -> str:
        """Return what `error` of a handshake with the server at `host` means; "" if it is not one of TLS."""

    def hint(self) -> str:
        """Return why a server may have ended a connection that had just begun."""


class ServerSecurity(Protocol):
    """How connections of clients are encrypted."""

    def server_context(self, port: str) -> ssl.SSLContext:
        """Return what connections to `port` are accepted with."""

    def accepts(self, chain: PeerChain) -> bool:
        """Return True if a client with this chain would be accepted now."""

    def count_rejection(self, port: str, error: BaseException) -> None:
        """Count a client of `port` whose handshake failed with `error`."""
