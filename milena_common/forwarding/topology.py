"""Pure. What is known of the ring where commands are forwarded, as a router and a node provide it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from milena_common.forwarding.pending import Request
from milena_common.network.security import Security
from milena_common.resp.identity import Identity

# What is in flight at a node that left by itself has so many seconds for its replies.
LEAVE_GRACE_SECONDS: Final = 10.0
# The minimum of remaining seconds for another attempt.
MIN_SECONDS: Final = 0.005
# A restarted node joins as soon as it listens. A request waits so many seconds for that, with this polling
# interval.
REJOIN_SECONDS: Final = 1.0
REJOIN_CHECK_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Upstream:
    """A node to which commands are sent.

    address: by which the ring has it
    called: host:port of its RESP server; "" if it has none that may be called
    identity: the process that is expected there
    security: encrypts the connections; None: they are plain
    """

    address: str
    called: str
    identity: Identity
    security: Security | None


class Topology(Protocol):
    """The ring. An epoch of it is an object of any kind, another one after each change of owners."""

    @property
    def epoch(self) -> Any: ...

    @property
    def upstreams(self) -> Iterable[Upstream]:
        """Return the nodes of the ring, without this process."""

    @property
    def ranges(self) -> Iterable[tuple[int, int, str]]:
        """Return first slot, last slot and the owner's address, ascending; "" for slots that are not forwarded."""

    @property
    def unpublished(self) -> bool:
        """True if the ring is not to be followed yet: `published` waits for it."""

    async def published(self, timeout: float) -> None:
        """Return once the ring may be followed. Raises MilenaError after `timeout` seconds."""

    def destination(self, slot: int) -> str:
        """Return the address to which a pending move takes `slot` from its owner; "" if there is none."""

    def find_owner(self, key: bytes) -> str:
        """Return the address of the node that serves the slot of a cache key, which `ranges` does not have.

        Raises the error that says why there is none.
        """

    def take(self, request: Request) -> bool:
        """Carry out a request whose slot this process serves itself; False if it does not."""

    async def checked(self, called: str) -> None:
        """Check an address before its first call. Raises MilenaError if it must not be called."""

    def to_call(self, called: str) -> str:
        """Return the address to connect to. Raises MilenaError if it must not be called."""

    async def confirm(self, request: Request, deadline: float) -> None:
        """Return once later reads find what `request` wrote, although the ring has changed. Raises MilenaError.

        `deadline`: monotonic seconds.
        """
