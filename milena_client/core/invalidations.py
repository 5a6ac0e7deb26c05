"""Pure. Applies what a node pushes to the near cache, in the order in which it was pushed.

The feeds of both clients call it. Pushes of an unknown kind are ignored: nodes push other messages too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from milena_client.core.near_cache import NearCache
from milena_common.api.keys import split_cache_key


def apply_push(message: Sequence[Any], near: NearCache) -> None:
    """Apply a push: its kind, then its elements. Kinds that are not about keys are ignored.

    The nodes name cache keys. All that this client has read are of its own bucket, so the key alone is enough.
    """
    if message[0] == b"invalidate":
        keys = message[1]
        near.invalidate_keys(None if keys is None else [split_cache_key(key)[1] for key in keys])
    elif message[0] == b"tracking-redir-broken":
        near.invalidate_keys(None)
