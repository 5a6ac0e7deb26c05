"""Reads: from dirty entries, from memory, from a read in flight, from S3, in this order.

- `reader`: the node's policy; `shared_reads`, `origin_health`: waiting for S3, and stale entries when it fails.
- `part_reads`: parts of objects; `read_modify_write`: commands whose write depends on the object.
- `listing`, `merged_page`: pages of keys, with what S3 does not have yet; `cluster_listing`, `peer_listings`:
  without what other nodes have deleted; `refresh`: drops clean entries.

Invariants: every read has exactly one outcome, and a hit never awaits.
"""
