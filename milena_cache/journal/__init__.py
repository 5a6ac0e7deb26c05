"""The journal: acknowledged writes that S3 does not have yet, on the node's disk.

- `group_commit`, `commit`: commits that many writes share; `records`: reads all records at the start.
- `commit_counts`: an observer of the commits, for metrics.
- `record`: a record's bytes and checksums; `version_allocator`: the version of each write.
- `origin`: the bucket that the writes are for, so marked that the version before rejects undrained journals.
- `disk`: the Protocol; `lmdb_disk`, `file`, `trial`, `directory`, `identity`: its LMDB implementation and the
  checks
  before it opens; `full_disk`: frees room on a full disk.
- `tools`: the command `milena journal`.

Invariant: a write is acknowledged only after the commit that contains it was synced, and never after a failed sync.
"""
