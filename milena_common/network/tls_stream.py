"""Shell. An encrypted connection for one thread, over a plain `Stream`.

The library's own encrypted socket makes several system calls for each read, and cannot take its limit from the
socket. Here the encryption works in memory, so a request and its reply are one system call each, as without it.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from time import monotonic

from milena_common.network.encrypted import HandshakeFailed
from milena_common.network.security import Security
from milena_common.network.stream import Stream

# A record has at most 16 KiB; a read takes several of them.
_READ_BYTES = 64 * 1024
# Plain bytes that are encrypted at once. They are sent before the next ones are taken.
_WRITE_BYTES = 64 * 1024


class TlsStream:
    """A `Stream` over `plain`, which it closes. `handshake` comes first.

    host: that the server's certificate is for
    """

    __slots__ = (
        "_decrypt",
        "_decrypted",
        "_encrypted",
        "_feed",
        "_host",
        "_limit",
        "_plain",
        "_receive",
        "_received",
        "_security",
        "_send",
        "_taken",
        "_tls",
        "_unsent",
        "_write",
    )

    def __init__(self, plain: Stream, security: Security, host: str) -> None:
        self._received = received = ssl.MemoryBIO()
        self._encrypted = ssl.MemoryBIO()
        context, name = security.client_context(), security.server_name(host)
        self._tls = context.wrap_bio(received, self._encrypted, server_hostname=name)
        self._security = security
        self._host = host
        self._plain = plain
        self._feed = received.write
        self._write = self._tls.write
        self._decrypted = self._tls.pending  # plain bytes that were decrypted and not returned
        self._send = plain.send_some
        self._taken = self._encrypted.read
        # These two are replaced when something has been received: a server that rejects this side's certificate
        # ends the connection after the handshake, which is no more the end of a connection than a failed handshake.
        self._receive: Callable[[int], bytes] = self._receive_first
        self._decrypt: Callable[[int], bytes] = self._decrypt_first
        self._unsent = b""  # encrypted bytes whose plain ones count as sent
        self._limit = 0.0

    def _receive_first(self, max_bytes: int) -> bytes:
        try:
            data = self._plain.recv(max_bytes)
        except ConnectionError:
            data = b""
        if not data:
            raise HandshakeFailed(f"it ended the connection right after the TLS handshake: {self._security.hint()}")
        return data

    def _decrypt_first(self, max_bytes: int) -> bytes:
        try:
            data = self._tls.read(max_bytes)
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            raise
        except ssl.SSLError as error:
            raise HandshakeFailed(self._security.failure(error, self._host)) from None
        self._receive, self._decrypt = self._plain.recv, self._tls.read
        return data

    def handshake(self, timeout: float) -> None:
        """Do the handshake within `timeout` seconds. Raises ssl.SSLError, OSError, BlockingIOError."""
        until = monotonic() + timeout
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush(until)
                if not self._more(until):
                    raise ConnectionResetError("the connection was ended during the TLS handshake") from None
            except ssl.SSLError:
                self._flush(until)  # the alert by which the server learns the reason
                raise
            else:
                self._flush(until)
                return

    def _more(self, until: float) -> bool:
        """Receive some encrypted bytes; False at the end."""
        left = until - monotonic()
        if left <= 0:
            raise BlockingIOError
        self._plain.set_limit(left)
        data = self._plain.recv(_READ_BYTES)
        self._feed(data)
        return bool(data)

    def _flush(self, until: float) -> None:
        data = self._unsent + self._taken()
        self._unsent = b""
        while data:
            left = until - monotonic()
            if left <= 0:
                raise BlockingIOError
            self._plain.set_limit(left)
            data = data[self._send(data) :]

    def set_limit(self, seconds: float) -> None:
        self._limit = seconds
        self._plain.set_limit(seconds)

    def send_some(self, data: bytes | memoryview, /) -> int:
        if self._unsent:
            self._unsent = self._unsent[self._send(self._unsent) :]
            if self._unsent:
                return 0
        taken: int = self._write(data if len(data) <= _WRITE_BYTES else data[:_WRITE_BYTES])
        # The plain bytes are taken: encrypted again, they would be there twice.
        self._unsent = encrypted = self._taken()
        self._unsent = encrypted[self._send(encrypted) :]
        return taken

    def recv(self, max_bytes: int, /) -> bytes:
        # Only where there may be some: to find none is an exception, which costs as much as decrypting a reply.
        # What is in neither of the two is part of a record, whose rest has not been received.
        if self._received.pending or self._decrypted():
            try:
                return self._decrypt(max_bytes)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:
                return b""
        if self._unsent:
            self._send_unsent()
        while True:
            data = self._receive(_READ_BYTES)
            if not data:
                return b""
            self._feed(data)
            try:
                return self._decrypt(max_bytes)
            except ssl.SSLWantReadError:
                continue  # a part of a record, or a message of the encryption itself
            except ssl.SSLZeroReturnError:
                return b""

    def _send_unsent(self) -> None:
        while self._unsent:
            self._unsent = self._unsent[self._send(self._unsent) :]

    def recv_full(self, size: int) -> bytes:
        until = monotonic() + self._limit if self._limit else None
        parts: list[bytes] = []
        try:
            while size:
                part = self.recv(min(size, _READ_BYTES))
                if not part:
                    break
                parts.append(part)
                size -= len(part)
                if size and until is not None:
                    left = until - monotonic()
                    if left <= 0:
                        break
                    self._plain.set_limit(left)
        except BlockingIOError:
            if not parts:
                raise
        finally:
            if until is not None and len(parts) > 1:
                self._plain.set_limit(self._limit)
        return b"".join(parts)

    def recv_ready(self, max_bytes: int) -> bytes:
        while True:
            try:
                return self._decrypt(max_bytes)
            except ssl.SSLWantReadError:
                data = self._plain.recv_ready(_READ_BYTES)
                if not data:
                    return b""
                self._feed(data)
            except ssl.SSLZeroReturnError:
                return b""

    def peer_closed(self) -> bool:
        # What is on the socket may be a message of the encryption, its end for example: only reading shows.
        try:
            early = self.recv_ready(1)
        except BlockingIOError:
            return False
        except OSError:
            return True
        if early:
            decrypt = self._decrypt
            decrypted = self._decrypted

            def return_early(max_bytes: int) -> bytes:
                self._decrypt, self._decrypted = decrypt, decrypted
                return early

            self._decrypt, self._decrypted = return_early, lambda: 1
        return not early

    def shutdown(self) -> None:
        self._plain.shutdown()

    def close(self) -> None:
        self._plain.close()
