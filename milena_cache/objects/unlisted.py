"""Pure. What a page of a listing may have that S3 does not list yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from milena_cache.objects.object_store import Info


class Names(NamedTuple):
    """Which names a page may have.

    prefix: of the keys
    delimiter: with which keys are listed as common prefixes; "": none
    last: the names are behind this one
    limit: how many there are at most
    """

    prefix: str
    delimiter: str
    last: str
    limit: int


class Unlisted(NamedTuple):
    """What a node has written, by name, and S3 may not have. None for a common prefix.

    until: the last name up to which it is complete; None: it has all
    """

    names: Mapping[str, Info | None]
    until: str | None = None
