"""Shell. Opens gRPC channels and ports. How they are secured is decided here alone.

Connections between parts of Milena are not encrypted today, those to etcd are if it is configured so.

Options are those of `milena_common.rpc.options`. A caller that may run in a forked process, or in one whose
standard library is patched, checks that before (`milena_common.runtime`).
"""

from __future__ import annotations

import grpc

from milena_common.network.addresses import Address
from milena_common.rpc.options import channel_options


def open_channel(address: str) -> grpc.Channel:
    """Return a channel to `address`, host:port, for threads. It connects at the first call."""
    return grpc.insecure_channel(address, options=channel_options())


def open_async_channel(address: str) -> grpc.aio.Channel:
    """Return a channel to `address`, host:port, for the running event loop. It connects at the first call."""
    return grpc.aio.insecure_channel(address, options=channel_options())


def open_tls_channel(
    address: str, ca: bytes | None, key: bytes | None, certificate: bytes | None
) -> grpc.aio.Channel:
    """Return an encrypted channel to `address` for the running event loop; arguments are in PEM.

    `ca`: what the server's certificate is checked with, None for the system's authorities; `key` and `certificate`:
    the client's own, None for none.
    """
    credentials = grpc.ssl_channel_credentials(ca, key, certificate)
    return grpc.aio.secure_channel(address, credentials, options=channel_options())


def bind_port(server: grpc.aio.Server, address: Address) -> int:
    """Bind `address` for `server`, and return the real port. Raises RuntimeError if it cannot be bound."""
    return server.add_insecure_port(str(address))
