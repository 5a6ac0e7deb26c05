"""Pure. The public names for operators: the admin clients, and the values that they return.

The clients are `Admin` for threads and `AsyncAdmin` for asyncio. These names are stable, wherever their modules
are.
"""

from milena_client.aio.admin import AsyncAdmin
from milena_client.core.admin import (
    DeadLetters,
    FailedWrite,
    Node,
    NodeStats,
    Ownership,
    Refreshed,
    RingView,
    problems,
)
from milena_client.core.estimates.hot_keys import HotKey, HotKeys
from milena_client.core.estimates.sizes import NodeSizes, SizeEstimate, together
from milena_client.core.jobs import Swept, Warmed
from milena_client.sync.admin import Admin
from milena_common.cluster.missing_node import MissingNode

__all__ = [
    "Admin",
    "AsyncAdmin",
    "DeadLetters",
    "FailedWrite",
    "HotKey",
    "HotKeys",
    "MissingNode",
    "Node",
    "NodeSizes",
    "NodeStats",
    "Ownership",
    "Refreshed",
    "RingView",
    "SizeEstimate",
    "Swept",
    "Warmed",
    "problems",
    "together",
]
