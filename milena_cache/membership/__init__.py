"""The node as a member of its cluster.

- `coordinator`: the Protocol of the part of the cluster that holds the ring; `router_coordinator`: a router as one.
- `registration`: joins the ring and renews the lease; `identity`: the cluster that the node belongs to.
- `ownership`: the slots of this node, and the owners of the others, by the newest ring; `stored_ring`: that ring in
  the journal, for a router that starts after all nodes were restarted.
- `slot_waiters`: requests for slots that no node serves while they are handed over.
- `peers`, `late_writes`: connections to other nodes, and invalidation there of keys whose slot moved during a
  write.

Invariant: the node never goes back to an older ring, and keeps the newest one while no coordinator can
be reached.
"""
