"""The node's access to S3.

- `requests`: attempts, concurrency and counts, over an `ObjectStore` (`milena_cache.objects.object_store`);
  `hedging`: a read that is sent once more if its response does not begin.
- `s3_store`: that store for S3: obstore where it is exact, boto3 otherwise; `absence`: confirms absence, once for
  all concurrent readers.
- `store_probe`, `conditions`: the capabilities found at the store; `bucket_check`, `health_probe`, `clock_watch`:
  background checks.
- `s3`: the meaning of S3's responses, times and settings; `clients`: the two client libraries.

A failure states if a retry may succeed, and if a write may have happened nevertheless.
"""
