"""Pure. The bounds of a client that are the same for threads and for an event loop, each with its reason.

Both clients import them from here, so that they cannot drift apart. Times are in seconds.
"""

from __future__ import annotations

from typing import Final

# Twice a node's lease (LEASE_SECONDS): a node that dies holds its slots until its lease is over, and then the calls
# for their keys still have time with the next owner.
DEFAULT_TIMEOUT: Final = 10.0
# Until S3 has all dirty writes; how long that takes depends on S3.
FLUSH_TIMEOUT: Final = 60.0
# The minimum timeout of an attempt: a transport accepts no deadline that has passed.
MIN_ATTEMPT_SECONDS: Final = 0.001
# The same for a command to a node. No reply could arrive in less time over a network.
MIN_REQUEST_SECONDS: Final = 0.005

# Calls of one batch that are in flight or wait for their next attempt.
BATCH_WINDOW: Final = 64
# Keys of one MGET: client and node hold its whole reply in memory.
MAX_MGET_KEYS: Final = 128

# For the connection to a node, its handshake included.
CONNECT_SECONDS: Final = 1.0
# The same for a node to which there never was a connection: perhaps it cannot be reached from here, and the router
# is the other way.
FIRST_CONNECT_SECONDS: Final = 0.1
# A node that leaves the ring by itself replies to what it has received. No read waits longer for one that is gone.
LAST_REPLIES_SECONDS: Final = 0.3
# How long writes may still wait for the reply of a node that left the ring.
LEAVE_GRACE_SECONDS: Final = 10.0
