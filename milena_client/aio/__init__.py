"""The client for an event loop. Its modules have twins of the same names in `milena_client.sync`.

- `client`, `admin`: what programs and operators call; `caller`: runs their operations; `cached_function`: keeps the
  results of a function. Their sync twins are made from them by scripts/sync-client, so that they cannot differ.
- `batch`: many operations at once; `direct`: calls to the owners of keys; `near_cache_feed`: receives
  invalidations; `completion`: waits for a computation. Their sync twins are written by hand.

What both decide is in `milena_client.core`; nothing here decides about retries, routes or what may be kept.
"""
