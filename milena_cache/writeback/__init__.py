"""Dirty writes: what was acknowledged and is not in S3 yet, and how it gets there.

- `dirty_table`: the dirty entries; `loop`: uploads them, one key at a time; `uploads`: one upload.
- `flush`: waits until writes are in S3; `dead_letters`, `failing`, `unfinished`: what S3 does not take.
- `recovery`: dirty entries from the journal after a start; `expired_objects`: deletes objects past their end.
- `recent_uploads`, `upload_load`: what listings and the event loop need to know of uploads.

An entry goes only when S3 has its version or a later one, or when an operator drops it.
"""
