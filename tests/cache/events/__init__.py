"""S3's events: what they are read as, to whom they go, and what becomes of entries."""
