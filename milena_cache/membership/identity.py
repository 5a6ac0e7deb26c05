"""Pure. Which cluster this node belongs to, as its routers, its newest ring and its journal say.

A node in the rings of several routers may hear several ids until the routers agree (they take the smallest): all of
them are its own meanwhile. The journal keeps the id, because its dirty writes have versions of that cluster's
epochs: a node that comes back with such writes must not be taken into another one's ring.
"""

from __future__ import annotations

from collections.abc import Callable

from milena_common.api.errors import WrongNode
from milena_common.resp.identity import Identity


class NodeIdentity:
    """This process in its cluster.

    `journaled` is the cluster id in the journal, "" if none. `has_writes`: whether there are dirty writes. `keep`
    is called with each new id, to put it into the journal.
    """

    def __init__(
        self,
        bucket: str,
        node_id: str,
        journaled: str = "",
        has_writes: Callable[[], bool] = lambda: False,
        keep: Callable[[str], None] = lambda cluster_id: None,
    ) -> None:
        self.bucket = bucket
        self.node_id = node_id
        self._kept = journaled
        self._has_writes = has_writes
        self._keep = keep
        self._of_ring = ""
        self._of_routers: dict[str, str] = {}
        # What `check` has accepted since the last change of what is known: callers repeat it with each gRPC call.
        self._accepted: Identity | None = None

    @property
    def _known(self) -> set[str]:
        return {self._of_ring, *self._of_routers.values()} - {""}

    @property
    def claimed(self) -> str:
        """The cluster id that this node joins with; "" if it may become a node of any cluster."""
        return min(self._known, default=self._kept if self._has_writes() else "")

    def ring_changed(self, cluster_id: str) -> None:
        """There is a new ring, of that cluster."""
        self._of_ring = cluster_id
        self._learnt()

    def observe(self, router: str, cluster_id: str) -> None:
        """A router that took this node in says what its cluster is."""
        if self._of_routers.get(router, "") != cluster_id:
            self._of_routers[router] = cluster_id
            self._learnt()

    def _learnt(self) -> None:
        self._accepted = None
        known = self._known
        if known and min(known) != self._kept:
            self._kept = min(known)
            self._keep(self._kept)

    def check(self, meant: Identity) -> None:
        """Raises WrongNode if a connection is for another cluster, bucket or process."""
        if meant == self._accepted:
            return
        known = self._known
        mine = meant.cluster_id if meant.cluster_id in known else min(known, default="")
        if meant.cluster_id and not mine and not meant.node_id:
            # Of this cluster or not, it cannot tell yet; a caller that names the process means this one.
            raise WrongNode("the node at this address has not joined a cluster yet; nothing was done")
        Identity(mine, self.bucket, self.node_id).check(meant)
        self._accepted = meant
