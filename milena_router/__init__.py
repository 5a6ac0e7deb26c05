"""The router: holds the ring of cache nodes, limits the rate of requests, and forwards each to its key's owner."""
