"""The two client libraries of S3, each imported only here.

- `obstore_client`, `obstore_errors`: fast and asynchronous, for keys that it does not alter.
- `boto3_client`, `boto3_session`, `boto3_bodies`, `boto3_errors`: exact for every key, on threads.

Both make a single attempt; `milena_cache.origin.requests` retries.
"""
