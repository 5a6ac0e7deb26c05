"""The journal: acknowledged writes that S3 does not have yet, on the node's disk.

- `group_commit`, `commit`, `records`: writes that share a sync, and the records that are taken out later.
- `record`, `version_allocator`: a record's bytes, and the version that each write gets.
- `disk`: the seam; `lmdb_disk`, `file`, `trial`, `directory`, `identity`, `full_disk`: LMDB behind it.

Nothing is acknowledged before the commit that holds it was synced; after a failed sync nothing is any more.
"""
