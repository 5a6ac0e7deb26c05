"""The client for an event loop. Its modules have twins of the same names in `milena_client.sync`.

- `client`, `admin`: what programs and operators call; `caller`: runs their operations. Their sync twins are made from
  these files by scripts/sync-client, so that the two cannot differ.
- `batch`: many operations at once; `direct`: calls to the owners of keys; `near_cache_feed`: receives what nodes say
  about changed keys. Tasks and threads make these different, so their twins are written by hand.

What both decide is in `milena_client.core`; nothing here decides about retries, routes or what may be kept.
"""
