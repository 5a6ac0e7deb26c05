"""Pure. Lineages: which versions in S3 can be compared with those of this node.

A version is ordered only against versions of the same cluster. Two clusters on one bucket, or a cluster that was
started anew with empty journals, number their writes independently of each other; the greater number says nothing
about which write came later. So objects in S3 carry the lineage of the cluster that wrote them, as metadata beside
their version.

The lineage of a cluster follows from the cluster's id, which the ring has. Before a node has been in a ring, its
writes are of a lineage of its journal's own, a random one. A journal keeps the lineages that its writes have had:
all of them are its *kin*. A version of any other lineage belongs to a foreign write.

Objects that were written before there were lineages carry none. They are ordered against writes that S3 has to be
asked about because they are of an earlier start or ownership: during a rolling upgrade a node that has no lineages
yet may have acknowledged a later write. For all other writes they are foreign.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from hashlib import blake2b
from typing import Final

LINEAGE_DIGITS = 16
# Metadata of an object that has no lineage.
UNNAMED: Final = ""
# So many lineages that a journal's writes have had are kept; a node seldom comes to another cluster.
MAX_EARLIER = 16

_DIGITS = frozenset("0123456789abcdef")


def is_lineage(text: str) -> bool:
    """Return whether `text` is the name of a lineage: lower-case hexadecimal digits."""
    return len(text) == LINEAGE_DIGITS and _DIGITS.issuperset(text)


def lineage_of_cluster(cluster_id: str) -> str:
    """Return the lineage of the cluster with this id."""
    return blake2b(cluster_id.encode(), digest_size=LINEAGE_DIGITS // 2).hexdigest()


class Lineages:
    """The lineage of one node's writes, and their kin.

    `own` is what writes are stamped with; UNNAMED where lineages are not in use. `metadata` is what `metadata()`
    returned before the restart, `minted` the lineage of a journal that has none yet.
    """

    def __init__(self, metadata: Mapping[str, str], minted: str) -> None:
        self.own = metadata.get("lineage", "") or minted
        # The first ones come first.
        self._earlier = list(filter(is_lineage, metadata.get("lineages", "").split(",")))
        self.ring_known = False
        self._update()

    def _update(self) -> None:
        self.kin: Collection[str] = frozenset((self.own, *self._earlier))
        self.late_kin: Collection[str] = frozenset((*self.kin, UNNAMED))

    def joined(self, lineage: str) -> bool:
        """Take over the lineage of the ring that this node is in; return whether the notes have changed."""
        self.ring_known = True
        if not self.own or lineage == self.own:
            return False
        self._earlier = [*(each for each in self._earlier if each != lineage), self.own][-MAX_EARLIER:]
        self.own = lineage
        self._update()
        return True

    def comparable(self, lineage: str, *, late: bool) -> bool:
        """Return whether versions of `lineage` are ordered against a write of this node.

        `late`: the write is of an earlier start or ownership.
        """
        return lineage in (self.late_kin if late else self.kin)

    def undecided(self, lineage: str, *, late: bool) -> bool:
        """Return whether `lineage` may turn out to be kin when the first ring since the start is known."""
        return late and not self.ring_known and not self.comparable(lineage, late=late)

    def metadata(self) -> dict[str, str]:
        """Return what the journal has to keep; nothing where lineages are not in use."""
        return {"lineage": self.own, "lineages": ",".join(self._earlier)} if self.own else {}
