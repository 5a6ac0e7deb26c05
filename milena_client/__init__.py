"""The client of Milena, a distributed cache in front of S3.

    from milena_client import Milena

    with Milena.from_url("milena://router:50050?timeout=1s") as cache:
        cache.set("reports/2024.csv", b"a,b\\n1,2\\n")
        cache.get("reports/2024.csv")        # bytes, or None if there is no such object
        cache["reports/2024.csv"]            # bytes, or KeyError
        entry = cache.get_entry("reports/2024.csv")
        entry.outcome, entry.age             # "hit", 0.8

`AsyncMilena` has the same methods for asyncio. Values are bytes; keys are str or bytes and are exactly the keys
of the objects in the bucket. Every error is a `MilenaError`.

- `sync`, `aio`: the clients for threads and event loops; `core`: the decisions of both, without I/O.
- `cached`: the decorator `@cached`; `admin`: calls for operators; `testing`: clients without a cluster.
- `cli`: the command line, and clusters on one machine.
"""

import milena_common  # noqa: F401  before any module that may be compiled: see milena_common.build
from milena_client.aio.client import AsyncMilena
from milena_client.cached import cached
from milena_client.core.near_cache import NearCache
from milena_client.core.retry import RetryPolicy
from milena_client.core.values import CommonPrefix, Entry, Flushed, ObjectInfo, Stat, Written
from milena_client.sync.client import Milena
from milena_common.api.errors import (
    AccessDenied,
    BatchError,
    ConditionFailed,
    ConfigError,
    DeadlineExceeded,
    FailedPrecondition,
    InternalError,
    InvalidRequest,
    KeyNotFound,
    MilenaError,
    Moved,
    NodeLost,
    NodeUnreachable,
    NoNodes,
    OriginUnavailable,
    Overloaded,
    RangeNotSatisfiable,
    RateLimited,
    TryAgain,
    Unauthenticated,
    Unavailable,
    WrongNode,
)
from milena_common.tls.settings import TlsFiles

__all__ = [
    "AccessDenied",
    "AsyncMilena",
    "BatchError",
    "CommonPrefix",
    "ConditionFailed",
    "ConfigError",
    "DeadlineExceeded",
    "Entry",
    "FailedPrecondition",
    "Flushed",
    "InternalError",
    "InvalidRequest",
    "KeyNotFound",
    "Milena",
    "MilenaError",
    "Moved",
    "NearCache",
    "NoNodes",
    "NodeLost",
    "NodeUnreachable",
    "ObjectInfo",
    "OriginUnavailable",
    "Overloaded",
    "RangeNotSatisfiable",
    "RateLimited",
    "RetryPolicy",
    "Stat",
    "TlsFiles",
    "TryAgain",
    "Unauthenticated",
    "Unavailable",
    "Written",
    "WrongNode",
    "cached",
]
