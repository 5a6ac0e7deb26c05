"""S3 as the node uses it.

- `requests`: attempts, concurrency and counts, over an `ObjectStore` (`milena_cache.objects.object_store`).
- `s3_store`: that store for S3: obstore where it is exact, boto3 otherwise; `absence`: one check for all who ask.
- `store_probe`, `conditions`: what the store was found to honour; `bucket_check`, `health_probe`, `clock_watch`:
  watches.
- `s3`: what S3's answers, times and settings mean; `clients`: the two client libraries.

A failure knows whether another attempt may help, and whether a write may have happened all the same.
"""
