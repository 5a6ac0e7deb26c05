"""The client for an event loop: `client` has its methods, `direct` sends calls to the owners of keys,
and `near_cache_feed` receives the invalidations of a near cache.
"""
