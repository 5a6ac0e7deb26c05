"""Programs that nobody here wrote, unchanged, at the S3 endpoint of a node."""
