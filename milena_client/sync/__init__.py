"""The client for threads. Its modules have twins of the same names in `milena_client.aio`.

- `client`, `admin`, `caller`, `cached_function`: made from them by scripts/sync-client; change the twins.
- `batch`, `completion`, `direct`, `near_cache_feed`: written by hand, since each thread waits for itself.
- `node`: a node, with one connection for each thread; `socket`: one such connection, one system call each way.
- `items`: the operators of a client (`cache[key]`).
"""
