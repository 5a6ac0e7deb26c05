"""Reads: from dirty entries, from memory, from a read in flight, from S3, in this order.

- `reader`: the node's policy; `shared_reads`, `origin_health`: waiting for S3, and stale entries when it fails.
- `read_modify_write`: commands whose write depends on the object; `refresh`: drops clean entries.
- `listing`: pages of keys, without what this node has deleted; `cluster_listing`, `peer_listings`: without what
  other nodes have deleted.

Invariants: every read has exactly one outcome, and a hit never awaits.
"""
