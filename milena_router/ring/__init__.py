"""The ring: its members, their leases, and its publication.

- `membership`: computes a ring from joins, leaves and expired leases; `leases`: runs it on a clock.
- `recovery`, `known_ring`: how a starting router recovers the last ring.
- `losses`: what is kept of nodes that are gone.
- `shared_journals`: rejects a second node with the journal of a live one.
- `watch_streams`: sends each ring to nodes and clients.

Epochs only grow, also across restarts of the router.
"""
