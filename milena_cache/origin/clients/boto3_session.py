"""Shell. Creates boto3's sessions and clients from resolved settings alone.

Everything that boto3 would read from the environment or from files is set explicitly, so that both client libraries
behave the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import boto3
import botocore.exceptions as botocore_errors
from botocore.config import Config as BotoConfig

from milena_cache.origin.s3.credentials import Held
from milena_cache.origin.s3.settings import S3Settings, StaticCredentials, aws_host
from milena_common.api.errors import ConfigError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# The number of threads of one store, and so of connections of one client.
THREADS = 16


def make_session(settings: S3Settings) -> boto3.Session:
    """Return a session, the source of credentials. Raises ConfigError for a profile that does not exist."""
    given = settings.credentials
    try:
        if not isinstance(given, StaticCredentials):
            return boto3.Session(region_name=settings.region)
        return boto3.Session(
            aws_access_key_id=given.access_key,
            aws_secret_access_key=given.secret_key,
            aws_session_token=given.token or None,
            region_name=settings.region,
        )
    except botocore_errors.ProfileNotFound as error:
        raise ConfigError([f"AWS_PROFILE: {error}"]) from None


def make_client(
    settings: S3Settings, region: str, held: Held, proxy: str = "", *, signs_bodies: bool = True
) -> S3Client:
    """Return a client for `region` with the credentials `held`, by the proxy, "" for none.

    It follows no redirects and does not retry.
    """
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
            # A single attempt: `origin.requests` retries, and counts each.
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=THREADS,
            # Everything that boto3 would otherwise read from the environment or ~/.aws/config.
            proxies=_proxies(proxy),
            use_fips_endpoint=False,
            use_dualstack_endpoint=False,
            s3={
                "addressing_style": "path" if settings.endpoint_url else "auto",
                "us_east_1_regional_endpoint": "regional",
                "use_accelerate_endpoint": False,
                "payload_signing_enabled": signs_bodies,
            },
            # Not every S3-compatible store supports the newer checksums.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
    made.meta.events.register_last("before-parameter-build.s3", _do_not_redirect)
    return made


def make_queue_client(settings: S3Settings, held: Held, proxy: str, waits: float) -> Any:
    """Return a client of SQS at the endpoint of `settings` with the credentials `held`, by the proxy, "" for none.

    Responses may take `waits` seconds longer than those of S3. It does not retry.
    """
    client: Any = boto3.Session().client
    return client(
        "sqs",
        region_name=settings.region,
        aws_access_key_id=held.access_key,
        aws_secret_access_key=held.secret_key,
        aws_session_token=held.token or None,
        endpoint_url=settings.endpoint_url,
        verify=settings.ca_bundle or True,
        config=BotoConfig(
            connect_timeout=settings.connect_timeout,
            read_timeout=settings.timeout + waits,
            retries={"total_max_attempts": 1, "mode": "standard"},
            proxies=_proxies(proxy),
            use_fips_endpoint=False,
            use_dualstack_endpoint=False,
        ),
    )


def _proxies(proxy: str) -> dict[str, str]:
    return dict.fromkeys(("http", "https"), proxy) if proxy else {}


def _do_not_redirect(context: Any, **_: Any) -> None:
    """Keep botocore from following redirects and region errors by itself.

    It would send uncounted requests, and for a response to HeadBucket of 301, 302 or 307 without a region it would
    repeat HeadBucket endlessly. `s3_store` handles redirects, for both clients alike.
    """
    if "s3_redirect" in context:
        context["s3_redirect"]["redirected"] = True
