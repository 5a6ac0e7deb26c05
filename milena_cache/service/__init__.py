"""The service layer that all protocol servers of the node share.

- `requests`: get, put, delete, list, flush and the other API methods, with identity, limits, ownership and counts.
- `status`: readiness, degradation, and metrics by name.

Nothing here depends on a protocol or a wire format: each method means the same over gRPC and RESP.
"""
