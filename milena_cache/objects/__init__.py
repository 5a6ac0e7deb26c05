"""The basic types of the node: pure values that every other folder uses, and that import no other folder.

- `names`: an object's bucket, key and cache key; `object_store`: the interface to S3, with its values and failures.
- `version`, `lineage`: the order of writes; `etags`: equality of ETags; `expiry`: an object's expiry time.
- `write_request`: a put or delete as it was requested, and its acknowledgement; `read_outcomes`: counts of reads.
"""
