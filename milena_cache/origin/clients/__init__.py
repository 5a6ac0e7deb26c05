"""The two client libraries of S3, each imported here only.

- `obstore_client`, `obstore_errors`: fast and asynchronous, for keys that it keeps as they are.
- `boto3_client`, `boto3_session`, `boto3_bodies`, `boto3_errors`: exact for every key, on threads.

Both make one attempt; `milena_cache.origin.requests` repeats.
"""
