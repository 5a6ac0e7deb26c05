"""The ring's state outside of the router, so that several routers have one ring.

- `ring_store`: the seam: one key that is changed by compare-and-swap, and a record of each node's last renewal.
- `etcd_store`: that in etcd.
- `state_message`: the state as bytes.
- `shared_leases`: the leases of a router that shares its ring with others.

Two rings cannot exist: a change is published only when the store has it, and the store takes a change only of the
state that it was made from. A lease is granted only when its record is stored, together with a comparison of the
state; and a node is lost only if its record has not changed for a whole lease, which is compared in the transaction
that takes it out of the ring.
"""
