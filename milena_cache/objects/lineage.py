"""Pure. Lineages: they identify the versions in S3 that are comparable with those of this node.

A version is ordered only against versions of the same cluster. Two clusters on one bucket, or a cluster that was
restarted with empty journals, number their writes independently; the greater number does not mean the later write.
So objects in S3 carry the lineage of the cluster that wrote them, as metadata besides their version.

The lineage of a cluster is derived from the cluster's id, which the ring has. Before a node has been in a ring, its
writes have a random lineage of its journal. A journal keeps the lineages that its writes have had: all of them are
its *kin*. A version of any other lineage belongs to a foreign write.

Objects written by versions without lineages carry none. They are comparable with writes of an earlier start or
ownership, which need a HEAD: during a rolling upgrade a node without lineages may have acknowledged a later
write. For all other writes they are foreign.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from hashlib import blake2b
from typing import Final

LINEAGE_DIGITS = 16
# Metadata of an object that has no lineage.
UNNAMED: Final = ""
# The number of earlier lineages that a journal keeps; a node seldom moves to another cluster.
MAX_EARLIER = 16

_DIGITS = frozenset("0123456789abcdef")


def is_lineage(text: str) -> bool:
    """True if `text` is the name of a lineage: lower-case hexadecimal digits."""
    return len(text) == LINEAGE_DIGITS and _DIGITS.issuperset(text)


def lineage_of_cluster(cluster_id: str) -> str:
    """Return the lineage of the cluster with this id."""
    return blake2b(cluster_id.encode(), digest_size=LINEAGE_DIGITS // 2).hexdigest()


class Lineages:
    """The lineage of one node's writes, and their kin.

    `own` is the lineage that writes are stamped with; UNNAMED where lineages are not in use. `metadata` is what
    `metadata()` returned before the restart, `minted` the lineage of a journal that has none yet.
    """

    def __init__(self, metadata: Mapping[str, str], minted: str) -> None:
        self.own = metadata.get("lineage", "") or minted
        # Oldest first.
        self._earlier = list(filter(is_lineage, metadata.get("lineages", "").split(",")))
        self.ring_known = False
        self._update()

    def _update(self) -> None:
        self.kin: Collection[str] = frozenset((self.own, *self._earlier))
        self.late_kin: Collection[str] = frozenset((*self.kin, UNNAMED))

    def joined(self, lineage: str) -> bool:
        """Adopt the lineage of the ring that this node is in; return True if the metadata has changed."""
        self.ring_known = True
        if not self.own or lineage == self.own:
            return False
        self._earlier = [*(each for each in self._earlier if each != lineage), self.own][-MAX_EARLIER:]
        self.own = lineage
        self._update()
        return True

    def comparable(self, lineage: str, *, late: bool) -> bool:
        """True if versions of `lineage` are comparable with a write of this node.

        `late`: the write is of an earlier start or ownership.
        """
        return lineage in (self.late_kin if late else self.kin)

    def undecided(self, lineage: str, *, late: bool) -> bool:
        """True if `lineage` may turn out to be kin when the first ring since the start is known."""
        return late and not self.ring_known and not self.comparable(lineage, late=late)

    def metadata(self) -> dict[str, str]:
        """Return the metadata for the journal to keep; empty where lineages are not in use."""
        return {"lineage": self.own, "lineages": ",".join(self._earlier)} if self.own else {}
