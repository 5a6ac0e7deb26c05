"""The stores under contract need a real S3 to talk to."""

from __future__ import annotations

import boto3
import pytest

from milena_cache.origin.s3.credentials import Credentials
from milena_cache.origin.s3.settings import S3Settings
from tests.e2e.conftest import bucket, moto, s3, s3_proxy
from tests.support.s3.fault_proxy import FaultProxy
from tests.support.s3.moto_server import AWS_VARIABLES, REGION

__all__ = ["bucket", "credentials", "moto", "s3", "s3_proxy", "session", "settings"]


@pytest.fixture
def session() -> boto3.Session:
    """Credentials that the stand-in for S3 takes."""
    return boto3.Session(
        aws_access_key_id=AWS_VARIABLES["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=AWS_VARIABLES["AWS_SECRET_ACCESS_KEY"],
        region_name=REGION,
    )


@pytest.fixture
def settings(s3_proxy: FaultProxy) -> S3Settings:
    """The way to S3 through the proxy; half a second for everything."""
    return S3Settings(REGION, s3_proxy.endpoint_url, timeout=0.5, connect_timeout=0.5)


@pytest.fixture
def credentials(session: boto3.Session, settings: S3Settings) -> Credentials:
    return Credentials(settings, lambda: session)
