"""Clients of the S3 endpoint: `gets`, of objects in memory, by raw HTTP."""
