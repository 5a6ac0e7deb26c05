"""The body of a request: `received` as one value, or `streamed` to S3; its form (`aws_chunked`) and `checksums`."""
