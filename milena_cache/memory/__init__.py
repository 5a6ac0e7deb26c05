"""Clean cache entries in memory, and the reads of S3 in flight that fill them.

- `lru`: entries, bounded in number and bytes; `freshness`: what an entry's age allows.
- `single_flight`: one read of S3 at a time for each key, shared by all its readers; `existence`: results of HEAD.
- `entries`: the operations on both together: keep, invalidate, mark stale, fence reads.
- `change_feed`: notifies of each key whose readers may get a different reply.

Readers outside of this package find entries by `Memory.get` and `peek`, and a run of hits by `Memory.find`; none
of them depends on how entries are stored.

Invariant: the result of a read that began before a write of its key is neither kept nor joined after that write.
"""
