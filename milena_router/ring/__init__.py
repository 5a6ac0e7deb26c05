"""Who is in the ring, and what follows from it.

- `membership`: joins, leaves and expired leases become rings; `leases`: its clock.
- `recovery`, `known_ring`: how a router that starts learns the last ring; `missing_nodes`: nodes that left writes
  behind.
- `shared_journals`: rejects a second node with the journal of a live one.
- `watch_streams`: each ring to those who follow it.

Epochs only grow, over restarts of the router too.
"""
