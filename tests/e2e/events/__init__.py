"""S3 reports the changes of other programs to a queue, which the nodes read."""
