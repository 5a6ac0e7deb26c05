"""Slots, the ring, and its distribution to nodes and clients.

- `slots`: the slot of a cache key, as Redis Cluster computes it.
- `slot_assignment`: the assignment of slots to nodes, as the router computes it; `slot_moves`: which slots a change
  moves; `slot_runs`: assignments as adjacent slots with one owner.
- `slot_map`: the ring as nodes and clients receive it; `slot_map_watch`: follows the router's stream of rings;
  `runs_message`: the short form of assignments on the wire.
- `missing_node`: the record of a node that left without handing over its writes.

Epochs only grow: an older ring never replaces a newer one.
"""
