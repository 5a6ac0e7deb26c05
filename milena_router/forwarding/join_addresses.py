"""Coordination. The addresses that nodes report: checked when they join, and called as they were checked.

A name is resolved here, and all of its addresses have to be allowed. What is called then is an address that was
checked, not the name: that could have another address the next time. The node keeps its name in the ring.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from milena_common.api.errors import AccessDenied, InvalidRequest, MilenaError
from milena_common.network.addresses import Address, canonical_host, parse_address
from milena_common.network.allowed_networks import IpNetwork, why_not
from milena_common.network.exited import RejectsConnections
from milena_common.runtime.clock import Clock

# Seconds for which the addresses of a name are used without resolving it anew.
KEEP_SECONDS: Final = 10.0
RESOLVE_SECONDS: Final = 2.0
MAX_NAMES: Final = 4096

# Returns the IP addresses of a host name. Raises OSError.
Resolve = Callable[[str], Awaitable[Sequence[str]]]


class JoinAddresses:
    """The check of one router. `networks`: where nodes may be; empty: anywhere that is not forbidden."""

    def __init__(self, resolve: Resolve, networks: Sequence[IpNetwork], clock: Clock) -> None:
        self._resolve = resolve
        self._networks = networks
        self._clock = clock
        self._known: dict[str, tuple[float, str]] = {}  # by name: until when, and the address to call

    async def check_all(self, addresses: Iterable[str], *, fresh: bool = False) -> None:
        """Raise InvalidRequest or AccessDenied unless all of `addresses`, host:port, may be called.

        `fresh`: resolve names again, whenever that was done last, since there is a new process. A name that cannot
        be resolved now passes where there are no networks; it is not called before it has been.
        """
        for text in addresses:
            await self._check_one(text, fresh=fresh)

    def to_call(self, text: str) -> str:
        """Return the checked address in place of `text`, host:port. Raises AccessDenied if it is none."""
        address = parse_address(text)
        if _is_name(address.host):
            known = self._known.get(address.host)
            if known is None:
                raise AccessDenied(
                    f"address: {text} has not been checked by this router: its node has not joined here"
                )
            return str(Address(known[1], address.port))
        self._require(text, address.host)
        return text

    def has_name(self, addresses: Iterable[str]) -> bool:
        """True if one of `addresses` has a name, and has to be checked before it is called."""
        return any(_is_name(parse_address(text).host) for text in addresses)

    def rejects(self, rejects_connections: RejectsConnections) -> RejectsConnections:
        """Return `rejects_connections`, for checked addresses only: False for others."""

        async def rejects_checked(address: str, timeout: float) -> bool:
            try:
                await self.check_all([address])
                return await rejects_connections(self.to_call(address), timeout)
            except MilenaError:
                return False

        return rejects_checked

    async def _check_one(self, text: str, *, fresh: bool) -> None:
        try:
            address = parse_address(text)
        except ValueError as error:
            raise InvalidRequest(f"address: got {text[:100]!r} ({error})") from None
        if not _is_name(address.host):
            self._require(text, address.host)
            return
        now = self._clock.now()
        known = self._known.get(address.host)
        if known is not None and now < known[0] and not fresh:
            return
        try:
            found = await asyncio.wait_for(self._resolve(address.host), RESOLVE_SECONDS)
        except OSError as error:
            if known is not None or not self._networks:
                return  # what was checked is called as long as the name cannot be resolved
            raise InvalidRequest(f"address: {text[:100]!r} cannot be resolved ({error})") from None
        for each in found:
            self._require(text, each)
        if not found:
            raise InvalidRequest(f"address: {text[:100]!r} has no IP address")
        if len(self._known) >= MAX_NAMES:
            self._known.pop(next(iter(self._known)))
        # An address that it had before, if it still has it: a node with two does not change between them.
        chosen = known[1] if known is not None and known[1] in found else found[0]
        self._known[address.host] = now + KEEP_SECONDS, chosen

    def _require(self, text: str, host: str) -> None:
        if reason := why_not(host, self._networks):
            raise AccessDenied(
                f"address: {text[:100]} {'' if host in text else f'({host}) '}{reason}; nothing was done"
            )


def _is_name(host: str) -> bool:
    return ":" not in host and canonical_host(host) == host and not host.replace(".", "").isdigit()
