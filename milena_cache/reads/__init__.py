"""What a get does: dirty entries, memory, a read in flight, S3.

- `reader`: the node's policy; `shared_reads`, `origin_health`: waiting for S3, and stale entries when it fails.
- `read_modify_write`: commands that depend on what there is; `listing`: pages of keys; `refresh`: drops clean
  entries.

Every read has one outcome, and a hit never awaits.
"""
