"""Slots, the ring, and following it.

- `slots`: the slot of a cache key, as Redis Cluster computes it.
- `slot_assignment`: which node owns which slot, as the router decides it.
- `slot_map`: the ring as those who follow it know it; `slot_map_watch`: follows the router's stream of rings.
- `missing_node`: what is remembered of a node that left without handing over its writes.

Epochs only grow: an older ring never replaces a newer one.
"""
