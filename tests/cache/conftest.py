"""The stores under contract need a real S3 to talk to."""

from tests.e2e.conftest import bucket, moto, s3, s3_proxy

__all__ = ["bucket", "moto", "s3", "s3_proxy"]
