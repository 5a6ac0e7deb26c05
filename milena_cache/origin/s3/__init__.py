"""What is the same for both client libraries of S3.

- `settings`, `credentials`: resolved once, and handed to both.
- `answers`, `attributes`, `digest`, `clock`: what statuses, metadata, ETags and dates of S3 mean.
- `fetch_bytes`: takes the bytes of a value from the process's budget before they are received.
"""
