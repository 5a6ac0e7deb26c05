"""Shell. Opens gRPC channels and ports. How they are secured is decided here alone.

Options are those of `milena_common.rpc.options`. A caller that may run in a forked process, or in one whose
standard library is patched, checks that before (`milena_common.runtime`).

A server gets the newest certificates at each handshake. A channel has those with which it was opened: its owner
opens another one when there are new ones. gRPC requires of a channel that counts as connected that the server has
sent its settings, so one that rejects the client's certificate is not connected, and nothing was sent to it.
"""

from __future__ import annotations

from typing import Any

import grpc

from milena_common.network.addresses import Address
from milena_common.rpc.options import channel_options
from milena_common.tls import failures
from milena_common.tls.certificates import Certificates

# What gRPC's details begin with when a call was certainly not begun: it found no connection; or the server said, in
# order (error code 0), that it stops and begins no call from this one on (RFC 9113, section 6.8). No other ends
# so: a call that was in progress as the connection ended has "Socket closed", also after a GOAWAY
# (findings/grpcio_goaway_and_calls_in_progress.sh).
STOPS = "GOAWAY received; Error code: 0;"
NOT_BEGUN = ("failed to connect to all addresses", "DNS resolution failed", STOPS)


def open_channel(address: str, certificates: Certificates | None = None, server_name: str = "") -> grpc.Channel:
    """Return a channel to `address`, host:port, for threads. It connects at the first call.

    `certificates`: encrypts it; None for a plain one. `server_name`: the host that the server's certificate is for,
    if it is not that of `address`.
    """
    if certificates is None:
        return grpc.insecure_channel(address, options=channel_options())
    options = _secure_options(certificates, server_name)
    return grpc.secure_channel(address, _channel_credentials(certificates), options=options)


def open_async_channel(
    address: str, certificates: Certificates | None = None, server_name: str = ""
) -> grpc.aio.Channel:
    """Return the same for the running event loop."""
    if certificates is None:
        return grpc.aio.insecure_channel(address, options=channel_options())
    options = _secure_options(certificates, server_name)
    return grpc.aio.secure_channel(address, _channel_credentials(certificates), options=options)


def open_tls_channel(
    address: str, ca: bytes | None, key: bytes | None, certificate: bytes | None
) -> grpc.aio.Channel:
    """Return an encrypted channel to `address` for the running event loop; arguments are in PEM.

    `ca`: what the server's certificate is checked with, None for the system's authorities; `key` and `certificate`:
    the client's own, None for none.
    """
    credentials = grpc.ssl_channel_credentials(ca, key, certificate)
    return grpc.aio.secure_channel(address, credentials, options=channel_options())


def _channel_credentials(certificates: Certificates) -> grpc.ChannelCredentials:
    certificate, key, authorities = (content or None for content in certificates.material)
    return grpc.ssl_channel_credentials(authorities, key, certificate)


def _secure_options(certificates: Certificates, server_name: str) -> list[tuple[str, int | str]]:
    options: list[tuple[str, int | str]] = list(channel_options())
    name = certificates.server_name(server_name)
    return [*options, ("grpc.ssl_target_name_override", name)] if name else options


def no_connection(details: str, certificates: Certificates | None, host: str) -> str:
    """Return what is wrong with TLS, by gRPC's `details` of a call to `host` without connection; "" if nothing."""
    if certificates is None:
        return "it ended the connection at once; it may use TLS" if failures.closed_at_once(details) else ""
    if certificates.files.server_name:
        host = certificates.files.server_name
    reason = failures.grpc_failure(details, host, certificates.authorities)
    if not reason and failures.closed_at_once(details):
        reason = f"it ended the connection right after the TLS handshake: {certificates.hint()}"
    return reason


def bind_port(server: grpc.aio.Server, address: Address) -> int:
    """Bind `address` for `server`, and return the real port. Raises RuntimeError if it cannot be bound."""
    return server.add_insecure_port(str(address))


def bind_tls_port(server: grpc.aio.Server, address: Address, certificates: Certificates) -> int:
    """Do the same for a port whose connections are encrypted with the newest of `certificates`."""
    served = certificates.number

    def newest() -> Any:
        # Called by a thread of gRPC in each handshake. None: as before.
        nonlocal served
        number = certificates.number
        if number == served:
            return None
        configuration = _configuration(certificates)
        served = number
        return configuration

    credentials = grpc.dynamic_ssl_server_credentials(
        _configuration(certificates), newest, certificates.files.client_auth == "required"
    )
    return server.add_secure_port(str(address), credentials)


def _configuration(certificates: Certificates) -> grpc.ServerCertificateConfiguration:
    certificate, key, authorities = certificates.material
    return grpc.ssl_server_certificate_configuration([(key, certificate)], authorities or None)
