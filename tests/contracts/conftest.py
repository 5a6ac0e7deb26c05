"""The stores under contract need a real S3 to talk to."""

from __future__ import annotations

from tests.cache.conftest import bucket, credentials, moto, s3, s3_proxy, session, settings

__all__ = ["bucket", "credentials", "moto", "s3", "s3_proxy", "session", "settings"]
