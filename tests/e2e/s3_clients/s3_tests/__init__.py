"""Ceph's s3-tests: `suite` runs those that `selection` chooses; `differences` are those that fail."""
