"""The cache node: serves objects of S3 from memory, reads through on a miss, and writes back from its journal."""
