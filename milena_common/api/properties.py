"""Pure. What S3 keeps with an object besides its value: the time of its write, some headers, and user metadata."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
# The headers that are kept, by their names in lower case.
KEPT_HEADERS: Final = (
    *("cache-control", "content-disposition", "content-encoding", "content-language", "content-type", "expires"),
)


class Properties(NamedTuple):
    """The properties of an object.

    last_modified: when it was written, seconds since 1970
    headers: those of KEPT_HEADERS that it has
    metadata: user metadata, names in lower case; without Milena's own
    """

    last_modified: float = 0.0
    headers: Mapping[str, str] = NOTHING
    metadata: Mapping[str, str] = NOTHING
