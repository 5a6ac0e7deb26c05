"""Clean values on a local disk (DISK_CACHE_DIR), below the memory and before S3.

- `record`: the bytes of segments, records and tables; `files`: the only module that does I/O, in threads.
- `segments`: the log of segments, first in, first out; `index`: where the records are, in memory.
- `tier`: what enters, what is returned and what is dropped; `settings`: its variables.

Invariants:
1. What is returned without S3 is what the memory would return if it were larger: a copy is dropped by whatever
   drops, replaces or doubts the key's entry in memory (`Entries`, `ChangeFeed.drop_copy`), in the same step of the
   event loop. The file is not changed: a record that the index does not have is not read.
2. So after a restart the log may have any earlier version. A copy of an earlier process is returned only for
   revalidation: S3 has to confirm its ETag before it is served.
3. Dirty values are never written here; they are in the journal.
4. The event loop does no file I/O, and waits for none: reads and writes are in threads.
"""
