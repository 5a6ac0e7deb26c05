"""The S3 endpoint of a node: `milena_common.s3` over the objects of all nodes (`cluster_objects`)."""
