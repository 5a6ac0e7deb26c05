"""Unchanged programs of other projects at the S3 endpoint of a node."""
