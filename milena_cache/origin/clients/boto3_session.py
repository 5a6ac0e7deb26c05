"""Shell. Makes boto3's sessions and clients from resolved settings, with nothing read behind their back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import boto3
import botocore.exceptions as botocore_errors
from botocore.config import Config as BotoConfig

from milena_cache.origin.s3.credentials import Held
from milena_cache.origin.s3.settings import S3Settings, aws_host
from milena_common.api.errors import ConfigError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# Threads of one store, and so connections of one client.
THREADS = 16


def make_session(settings: S3Settings) -> boto3.Session:
    """Return where credentials come from. Raises ConfigError for a profile that does not exist."""
    given = settings.credentials
    try:
        if given is None:
            return boto3.Session(region_name=settings.region)
        return boto3.Session(
            aws_access_key_id=given.access_key,
            aws_secret_access_key=given.secret_key,
            aws_session_token=given.token or None,
            region_name=settings.region,
        )
    except botocore_errors.ProfileNotFound as error:
        raise ConfigError([f"AWS_PROFILE: {error}"]) from None


def make_client(settings: S3Settings, region: str, held: Held) -> S3Client:
    """Return a client for `region` with the credentials `held`. It follows no redirects and repeats nothing."""
    proxies = dict.fromkeys(("http", "https"), settings.proxy_url) if settings.proxy_url else {}
    made = boto3.Session().client(
        "s3",
        region_name=region,
        aws_access_key_id=held.access_key,
        aws_secret_access_key=held.secret_key,
        aws_session_token=held.token or None,
        endpoint_url=settings.endpoint_url or f"https://{aws_host(region)}",
        verify=settings.ca_bundle or True,
        config=BotoConfig(
            connect_timeout=settings.connect_timeout,
            read_timeout=settings.timeout,
            # One attempt: `origin` repeats, and counts each.
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=THREADS,
            # Everything that boto3 would otherwise read from the environment or ~/.aws/config.
            proxies=proxies,
            use_fips_endpoint=False,
            use_dualstack_endpoint=False,
            s3={
                "addressing_style": "path" if settings.endpoint_url else "auto",
                "us_east_1_regional_endpoint": "regional",
                "use_accelerate_endpoint": False,
                "payload_signing_enabled": True,
            },
            # Not every stand-in for S3 knows the newer checksums.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
    made.meta.events.register_last("before-parameter-build.s3", _do_not_redirect)
    return made


def _do_not_redirect(context: Any, **_: Any) -> None:
    """Keep botocore from following redirects and region errors by itself.

    It would send requests that nobody counts, and for an answer to HeadBucket of 301, 302 or 307 that names no
    region it would send HeadBucket again without end. `s3` does it, for both clients alike.
    """
    if "s3_redirect" in context:
        context["s3_redirect"]["redirected"] = True
