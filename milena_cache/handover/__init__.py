"""Moving slots between nodes without losing sight of acknowledged writes.

- `frames`: what one node sends another, as bytes; `plan`: the moves of a ring that concern this node.
- `outgoing`: what of a move is still to be sent; `source`: sends it, stops the slots and releases them.
- `merging`: takes another node's writes into the journal and the dirty table; `destination`: receives a move.
- `old_owner`: reads from the old owner before S3, and its replies.
- `former_owner`: hands in dirty writes of slots that another node got without a hand-over.
- `tombstones`: deletes that S3 has, while an absent node may still have older puts.
- `hot_entries`: clean entries that follow the slots.
- `handover`: the parts together, as the node's wiring and commands use them.

Invariant: at most one node serves a slot. The owner stops it before it releases it, and the destination serves it
only when everything that the owner has acknowledged is in its journal.
"""
