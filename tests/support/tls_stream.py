"""Shell. Encrypted connections for tests: a throw-away certificate, and a `Stream` over an `ssl.SSLSocket`.

`TlsStream` shows that the interface carries encryption. It is no part of the product: nothing there has settings
for it yet.
"""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from time import monotonic

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from milena_common.network.connecting import Endpoint

HOST = "127.0.0.1"


def contexts(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the settings of a server at HOST and of clients that trust it, with a certificate made in `folder`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return server, ssl.create_default_context(cafile=str(folder / "cert.pem"))


class TlsStream:
    """A `Stream` over a TLS connection to `endpoint`, made within `timeout` seconds.

    An SSLSocket takes no flags, and its own limit is the only one that ends its calls.
    """

    def __init__(self, context: ssl.SSLContext, endpoint: Endpoint, timeout: float) -> None:
        plain = socket.socket(endpoint.family, socket.SOCK_STREAM)
        plain.settimeout(timeout)
        plain.connect(endpoint.sockaddr)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = context.wrap_socket(plain, server_hostname=HOST)
        self._limit: float | None = None
        self._early = b""  # read by `peer_closed`
        self._socket.settimeout(None)

    def set_limit(self, seconds: float) -> None:
        self._limit = seconds
        self._socket.settimeout(seconds)

    def send_some(self, data: bytes | memoryview, /) -> int:
        try:
            return self._socket.send(data)
        except TimeoutError as error:
            raise self._over(error) from None

    def recv(self, max_bytes: int, /) -> bytes:
        if self._early:
            early, self._early = self._early[:max_bytes], self._early[max_bytes:]
            return early
        try:
            return self._socket.recv(max_bytes)
        except TimeoutError as error:
            raise self._over(error) from None

    @staticmethod
    def _over(error: TimeoutError) -> OSError:
        # Python's own has no number; the system's is a peer that does not acknowledge.
        return BlockingIOError("the limit is over") if error.errno is None else error

    def recv_full(self, size: int) -> bytes:
        until = None if self._limit is None else monotonic() + self._limit
        parts: list[bytes] = []
        try:
            while size:
                part = self.recv(size)
                if not part:
                    break
                parts.append(part)
                size -= len(part)
                if size and until is not None:
                    left = until - monotonic()
                    if left <= 0:
                        break
                    self._socket.settimeout(left)
        except BlockingIOError:
            if not parts:
                raise
        finally:
            if self._limit is not None:
                self._socket.settimeout(self._limit)
        return b"".join(parts)

    def recv_ready(self, max_bytes: int) -> bytes:
        self._socket.settimeout(0)
        try:
            return self.recv(max_bytes)
        except ssl.SSLWantReadError:
            raise BlockingIOError("nothing is here") from None
        finally:
            self._socket.settimeout(self._limit)

    def peer_closed(self) -> bool:
        # What is on the socket may be a session ticket, or the end of the encrypted connection: only reading shows.
        if self._early:
            return False
        try:
            self._early = self.recv_ready(1)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return not self._early

    def shutdown(self) -> None:
        with suppress(OSError):
            # SSLSocket's own takes the encryption off while a call in another thread is in flight.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()
