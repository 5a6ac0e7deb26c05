"""The node as a member of its cluster.

- `registration`: joins the ring and renews the lease; `identity`: the cluster that the node belongs to.
- `ownership`: the slots of this node, and the owners of the others, by the newest ring.
- `peers`, `late_writes`: connections to other nodes; invalidation there of keys whose slot moved during a write.

Invariant: the node never goes back to an older ring, and keeps the newest one while no router can be reached.
"""
