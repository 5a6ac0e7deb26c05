"""The router: maintains the ring of cache nodes, limits the request rate, and forwards requests to key owners."""
