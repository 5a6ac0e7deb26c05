"""Copies of dirty writes in the journals of other nodes, so that a lost node takes no acknowledged write with it.

A slot has an owner, and in a ring of nodes that all keep copies also *holders*, which the ring lists. The owner
sends each write of class `back` to the slot's holders, and acknowledges it when its own journal and theirs have it.

- `frames`: the bytes of what an owner sends to a holder, and of the holder's reply.
- `store`: the copies that a node holds; `holder`: takes frames into the journal and the store.
- `journal_roles`: which records of the journal are copies now.
- `promotion`: what becomes of copies when the ring changes; `collecting`: a new owner gets what it lacks.
- `held_copies`: the parts of the holder together, as the node's wiring and commands use them.

Invariants:
1. A write of class `back` is neither acknowledged nor served before the journals of all listed holders have it.
2. A complete holder has every acknowledged write of the slot that S3 does not have.
3. A complete holder has no copy that an acknowledged write has superseded, unless S3 has exactly that copy.
"""
