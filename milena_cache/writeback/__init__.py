"""Dirty writes: what was acknowledged and is not in S3 yet, and how it gets there.

- `dirty_table`: the dirty entries; `dirty_writes`: their values, ETags and expiry, and how they leave the table.
- `loop`: uploads them, one key at a time; `uploads`: one upload, and what is believed of S3 under a write.
- `flush`: waits until writes are in S3.
- `failing`, `dead_letters`, `stuck_writes`, `unfinished`: what S3 does not take, and what people can do about it.
- `recovery`: dirty entries from the journal after a start; `expired_objects`: deletes objects past their end.
- `recent_uploads`, `upload_load`: what listings and the event loop need to know of uploads.

An entry goes only when S3 has its version or a later one, or when an operator drops it.
"""
