"""The client for threads, with the same names as `milena_client.aio`.

- `client`: its methods; `direct`: calls to the owners of keys.
- `node`: a node, with one connection for each thread; `socket`: one such connection, one system call each way.
- `near_cache_feed`: receives the invalidations of a near cache.
"""
