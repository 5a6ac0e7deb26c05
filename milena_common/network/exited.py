"""Coordination. The proof that a process has ended: its ports refuse connections, all of them and twice.

The kernel of a host that can be reached refuses connections to a port at which no process listens. Once is not
enough: a process that restarts may be between its stop and its start. Silence proves nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection

# Seconds for one attempt to connect, and between the two attempts.
CONNECT_SECONDS = 0.2
PAUSE_SECONDS = 0.1
ATTEMPTS = 2
# Seconds that the whole proof takes at most.
PROOF_SECONDS = ATTEMPTS * CONNECT_SECONDS + (ATTEMPTS - 1) * PAUSE_SECONDS

# Returns True if an address refuses connections, within so many seconds.
RejectsConnections = Callable[[str, float], Awaitable[bool]]


async def ports_reject(
    ports: Collection[str], rejects_connections: RejectsConnections, sleep: Callable[[float], Awaitable[None]]
) -> bool:
    """Return True if each address of `ports` refuses connections, in all attempts."""
    for attempt in range(ATTEMPTS):
        if attempt:
            await sleep(PAUSE_SECONDS)
        if not all(await asyncio.gather(*(rejects_connections(port, CONNECT_SECONDS) for port in ports))):
            return False
    return bool(ports)
