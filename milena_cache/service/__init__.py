"""What every protocol of the node shares.

- `requests`: get, put, delete, list, flush and what else callers ask for: identity, limits, ownership, counts.
- `status`: readiness, degradation, and samples by name.
"""
