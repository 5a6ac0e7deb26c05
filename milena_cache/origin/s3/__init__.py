"""The parts that both client libraries of S3 share.

- `settings`, `credentials`: resolved once, and passed to both.
- `responses`, `attributes`, `digest`, `clock`: the meaning of S3's statuses, metadata, ETags and dates.
- `fetch_bytes`: takes the bytes of a value from the process's budget before they are received.
"""
