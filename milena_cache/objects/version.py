"""Pure. The order of writes: versions, their form in S3's metadata, and the base of a write.

Each write has a version `<epoch>-<seq>`: the newest ring epoch that its node knew, then a number that only grows on
that node. Of two writes of one key the one with the greater version is the later one, whichever nodes made them,
because a slot that comes to another node does so with a new epoch.

An object that Milena wrote carries its version as metadata, the lineage that the version belongs to (see
`lineage`), and the object that it was written as: tools that copy an object copy its metadata too, and such a copy
must not count as a write of Milena.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from hashlib import blake2b
from typing import Literal, NamedTuple

from milena_cache.objects.lineage import UNNAMED, is_lineage
from milena_cache.objects.object_store import Ref

VERSION = "milena-version"
LINEAGE = "milena-lineage"
WRITTEN_AS = "milena-object"


class Version(NamedTuple):
    """A version, ordered as a tuple.

    `epoch` is the newest ring epoch that the node knew, `seq` the node's counter.
    """

    epoch: int
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq}"


class Known(Enum):
    """The base of a write that is not an object with a known ETag."""

    UNKNOWN = "unknown"
    ABSENT = "absent"


UNKNOWN: Literal[Known.UNKNOWN] = Known.UNKNOWN
ABSENT: Literal[Known.ABSENT] = Known.ABSENT

# The believed state of S3 when a write was made: the object's ETag, no object, or unknown.
Base = str | Literal[Known.UNKNOWN, Known.ABSENT]


def stamp(version: Version, ref: Ref, lineage: str = UNNAMED) -> dict[str, str]:
    """Return the metadata of an object that is written to `ref` as `version` of `lineage`."""
    stamped_as = {VERSION: str(version), WRITTEN_AS: _name(ref)}
    return {**stamped_as, LINEAGE: lineage} if lineage else stamped_as


def stamped(metadata: Mapping[str, str], ref: Ref) -> Version | None:
    """Return the version of the object at `ref`, None if Milena did not write it there."""
    if not written_here(metadata, ref):
        return None
    epoch, _, seq = metadata.get(VERSION, "").partition("-")
    if not (epoch.isascii() and epoch.isdecimal() and seq.isascii() and seq.isdecimal()):
        return None
    return Version(int(epoch), int(seq))


def lineage_of(metadata: Mapping[str, str]) -> str:
    """Return the lineage that an object's version belongs to; UNNAMED if it has none or a malformed one."""
    lineage = metadata.get(LINEAGE, UNNAMED)
    return lineage if is_lineage(lineage) else UNNAMED


def written_here(metadata: Mapping[str, str], ref: Ref) -> bool:
    """True if the object was written as the one at `ref`, and is not a copy of another."""
    return metadata.get(WRITTEN_AS) == _name(ref)


def _name(ref: Ref) -> str:
    return blake2b(str(ref).encode(), digest_size=8).hexdigest()
