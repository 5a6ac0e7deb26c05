"""The parts that both client libraries of S3 share.

- `settings`, `credentials`: resolved once, and passed to both.
- `responses`, `attributes`, `digest`, `clock`, `ranges`: the meaning of S3's statuses, metadata, ETags, dates and
  parts of objects.
- `fetch_bytes`: takes the bytes of a value from the process's budget before they are received.
"""
