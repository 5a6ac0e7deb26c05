"""Pure. The identity of this node's cluster, from its routers, its newest ring and its journal.

A node in the rings of several routers may get several cluster ids until the routers agree (on the smallest);
meanwhile it accepts all of them. The journal keeps the id, because the versions of its dirty writes have that
cluster's epochs: a node that restarts with dirty writes must not be taken into the ring of another cluster.
"""

from __future__ import annotations

from collections.abc import Callable

from milena_common.api.errors import WrongNode
from milena_common.resp.identity import Identity


class NodeIdentity:
    """The identity of this process and of its cluster.

    bucket, node_id: the default bucket, and the id of this process
    journaled: the cluster id in the journal, "" if none
    has_writes: returns True if there are dirty writes
    keep: called with each new cluster id, to put it into the journal
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
        # The identity that `check` accepted last; reset by each change. Callers send the same one with each gRPC
        # call.
        self._accepted: Identity | None = None

    @property
    def _known(self) -> set[str]:
        return {self._of_ring, *self._of_routers.values()} - {""}

    @property
    def claimed(self) -> str:
        """Return the cluster id that this node joins with; "" if it may join any cluster."""
        return min(self._known, default=self._kept if self._has_writes() else "")

    def ring_changed(self, cluster_id: str) -> None:
        """Take over the cluster id of a new ring."""
        self._of_ring = cluster_id
        self._learnt()

    def observe(self, router: str, cluster_id: str) -> None:
        """Take over the cluster id that `router` returned to a join."""
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
        """Raise WrongNode if a connection is for another cluster, bucket or process than this one."""
        if meant == self._accepted:
            return
        known = self._known
        mine = meant.cluster_id if meant.cluster_id in known else min(known, default="")
        if meant.cluster_id and not mine and not meant.node_id:
            # Before the first join it is not known if `meant` is this cluster. A caller that names this process is
            # right in any case, and goes on to the check below.
            raise WrongNode("the node at this address has not joined a cluster yet; nothing was done")
        Identity(mine, self.bucket, self.node_id).check(meant)
        self._accepted = meant
