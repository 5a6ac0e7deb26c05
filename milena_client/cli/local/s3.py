"""Shell. S3 for a cluster on this machine: moto's server in a process of its own, or a configured endpoint.

boto3 is imported only here and only when it is used: the client library does not need it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

REGION = "us-east-1"
DEFAULT_BUCKET = "milena"

# moto accepts any credentials; with these the processes do not get the developer's own.
_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "milena",
    "AWS_SECRET_ACCESS_KEY": "milena-local",
    "AWS_REGION": REGION,
    "AWS_DEFAULT_REGION": REGION,
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass(frozen=True, slots=True)
class S3Choice:
    """The S3 of a local cluster.

    endpoint: its URL; "" for AWS, and for the embedded S3, whose port is not known yet.
    bucket: the bucket's name.
    embedded: True if moto's server is to be started.
    create: True if the bucket is to be created if it is missing.
    """

    endpoint: str
    bucket: str
    embedded: bool
    create: bool


def choose_s3(environ: Mapping[str, str]) -> S3Choice:
    """Return the endpoint in S3_ENDPOINT_URL; with S3_BUCKET alone, AWS; with neither, the embedded S3.

    A bucket on AWS is never created, because that costs money. At an endpoint it is created if it is missing.
    """
    endpoint, bucket = environ.get("S3_ENDPOINT_URL", ""), environ.get("S3_BUCKET", "")
    if endpoint:
        return S3Choice(endpoint, bucket or DEFAULT_BUCKET, embedded=False, create=True)
    if bucket:
        return S3Choice("", bucket, embedded=False, create=False)
    return S3Choice("", DEFAULT_BUCKET, embedded=True, create=True)


def embedded_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` with moto's credentials, and without all other variables of S3 and AWS."""
    kept = {name: value for name, value in environ.items() if not name.startswith(("AWS_", "S3_"))}
    return kept | _CREDENTIALS


def s3_client(endpoint: str, environ: Mapping[str, str]) -> S3Client:
    """Return boto3's client for `endpoint` ("" is AWS), with the credentials of `environ` and short timeouts."""
    import boto3
    from botocore.config import Config

    settings: dict[str, Any] = {
        "connect_timeout": 2,
        "read_timeout": 10,
        "retries": {"max_attempts": 3, "mode": "standard"},
        "proxies": {} if endpoint else None,
        "s3": {"addressing_style": "path" if endpoint else "auto"},
    }
    session = boto3.Session(
        aws_access_key_id=environ.get("AWS_ACCESS_KEY_ID"),
        aws_secret_access_key=environ.get("AWS_SECRET_ACCESS_KEY"),
        aws_session_token=environ.get("AWS_SESSION_TOKEN"),
        region_name=environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or REGION,
    )
    return session.client("s3", endpoint_url=endpoint or None, config=Config(**settings))


def create_bucket(client: S3Client, bucket: str) -> None:
    """Create `bucket` if it does not exist. Raises botocore's errors."""
    from botocore.exceptions import ClientError

    try:
        client.head_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") != "404":
            raise
        client.create_bucket(Bucket=bucket)
