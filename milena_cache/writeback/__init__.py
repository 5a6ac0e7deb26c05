"""Dirty writes: writes that were acknowledged and are not in S3 yet, and their uploads.

- `dirty_table`: the dirty entries; `dirty_writes`: their values, ETags and expiry, and their removal.
- `releases`: the seam by which the records of writes that are over are given up.
- `loop`: uploads them, one upload a key at a time; `uploads`: one upload, and the belief about S3 under a write;
  `read_ahead`: the values of the next uploads, where only the journal has them.
- `flush`: waits until writes are in S3.
- `failing`, `dead_letters`, `stuck_writes`, `unfinished`: writes that S3 rejects, and an operator's retry and drop.
- `recovery`: dirty entries from the journal after a start; `expired_objects`: deletes expired objects from S3.
- `recent_uploads`: uploads that listings in flight must see; `upload_load`: the event loop's load, for the
  throttle.

Readers find a dirty entry by `Dirty.get`, iteration and `Dirty.values`; none of them knows how entries are stored.

Invariant: an entry is removed only when S3 has its version or a later one, or when an operator drops it.
"""
