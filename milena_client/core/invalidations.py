"""Pure. What a node's pushes mean for the near cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from milena_client.core.near_cache import NearCache
from milena_common.api.keys import split_cache_key


def apply(message: Sequence[Any], near: NearCache) -> None:
    """Take in a push: its kind, then its elements. Those that are not about keys are passed over.

    The nodes name cache keys. All that this client has had followed are of its own bucket, so the key alone is
    enough.
    """
    if message[0] == b"invalidate":
        keys = message[1]
        near.invalidate(None if keys is None else [split_cache_key(key)[1] for key in keys])
    elif message[0] == b"tracking-redir-broken":
        near.invalidate(None)
