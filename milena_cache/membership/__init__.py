"""The node in its cluster.

- `registration`: joins the ring and renews the lease; `identity`: which cluster the node belongs to.
- `ownership`: which slots are its own, and who has the others.
- `peers`, `late_writes`: connections to other nodes, and invalidation of what was written for a slot that has
  moved.
"""
