"""A node and its disk are lost while S3 is away."""
