"""Ceph's s3-tests at the endpoint: `suite` runs those that `selection` chooses, `differences` are those that fail."""
