"""The client for threads. Its modules have twins of the same names in `milena_client.aio`.

- `client`, `admin`, `caller`: made from their twins by scripts/sync-client; a change is made there.
- `batch`, `direct`, `near_cache_feed`: written by hand, since each thread waits for its own replies here.
- `node`: a node, with one connection for each thread; `socket`: one such connection, one system call each way.
- `items`: the operators of a client (`cache[key]`).
"""
