"""Shell. Derives the addresses at which others reach this node, where they are not configured.

A node advertises them in its Join; a wrong one makes it unreachable for routers and clients.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from contextlib import suppress

from milena_common.network.addresses import Address

log = logging.getLogger(__name__)


def advertised_resp(listens: Address, advertised: Address, variable: str = "RESP_ADDR") -> str:
    """Return the address at which others reach the RESP server; "" if it listens on loopback only.

    `variable` set where it listens.
    """
    if listens.is_wildcard:
        return str(Address(advertised.host, listens.port))
    if listens.is_loopback and not advertised.is_loopback:
        log.warning(
            "the RESP server listens on %s, which others cannot reach: they use gRPC. Set %s=0.0.0.0:%d",
            listens,
            variable,
            listens.port,
        )
        return ""
    return str(listens)


def derive_advertised(listen: Address, routers: Sequence[Address]) -> Address:
    """Return the address that others can connect to: the listening one, or this machine's towards a router."""
    if not listen.is_wildcard:
        return listen
    for router in routers:
        try:
            # A name may have addresses of both families; connecting a datagram socket sends nothing and only
            # selects the route, which fails at once for a family without one.
            for family, kind, _, _, where in socket.getaddrinfo(router.host, router.port, type=socket.SOCK_DGRAM):
                with suppress(OSError), socket.socket(family, kind) as way:
                    way.connect(where)
                    return Address(way.getsockname()[0], listen.port)
        except OSError:
            continue
    return Address(socket.gethostname(), listen.port)
