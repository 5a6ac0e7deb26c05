"""Shell. `ObjectStore` over boto3: exact for every key that S3 accepts, listing, buckets, credentials.

boto3 blocks, so calls run on threads. The client is made at the first call, on a thread too: making it looks for
credentials, which may ask the network.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
import botocore.exceptions as botocore_errors
from botocore.config import Config as BotoConfig
from botocore.parsers import ResponseParserError

from milena_cache.s3_settings import S3Settings
from milena_cache.store import (
    NO_METADATA,
    Absent,
    Fault,
    Info,
    OriginFailure,
    Page,
    Ref,
    Stored,
    fault_of_status,
    too_large,
)
from milena_common.errors import ConfigError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")

THREADS = 16

# boto3's words for a request that brought no HTTP answer.
_TRANSPORT: tuple[tuple[type[Exception], Fault, str], ...] = (
    (botocore_errors.ConnectTimeoutError, Fault.CONNECT, "connect"),
    (botocore_errors.ReadTimeoutError, Fault.TIMEOUT, "timeout"),
    (botocore_errors.EndpointConnectionError, Fault.CONNECT, "connect"),
    (botocore_errors.IncompleteReadError, Fault.INCOMPLETE, "incomplete"),
    (botocore_errors.ResponseStreamingError, Fault.INCOMPLETE, "incomplete"),
    (botocore_errors.HTTPClientError, Fault.INCOMPLETE, "incomplete"),
)


def make_session(region: str) -> boto3.Session:
    """Where both clients get their credentials. Raises ConfigError for a profile that does not exist."""
    try:
        return boto3.Session(region_name=region)
    except botocore_errors.ProfileNotFound as error:
        raise ConfigError([f"AWS_PROFILE: {error}"]) from None


class _NoSuchObject(Exception):
    """S3 answered 404, and it was not the bucket."""


class Boto3Store:
    """S3 through boto3."""

    def __init__(self, session: boto3.Session, settings: S3Settings) -> None:
        self._session = session
        self._settings = settings
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="boto3")
        self._making = threading.Lock()
        self._made: S3Client | None = None

    def _client(self) -> S3Client:
        with self._making:
            if self._made is None:
                settings = self._settings
                self._made = self._session.client(
                    "s3",
                    endpoint_url=settings.endpoint_url or None,
                    config=BotoConfig(
                        connect_timeout=settings.connect_timeout,
                        read_timeout=settings.timeout,
                        # One attempt: `origin` repeats, and counts each.
                        retries={"total_max_attempts": 1, "mode": "standard"},
                        max_pool_connections=THREADS,
                        s3={"addressing_style": "path" if settings.endpoint_url else "auto"},
                        # Not every stand-in for S3 knows the newer checksums.
                        request_checksum_calculation="when_required",
                        response_checksum_validation="when_required",
                    ),
                )
            return self._made

    async def _call(self, operation: str, ref: Ref, work: Callable[[S3Client], T]) -> T:
        """`work` on a thread. Raises _NoSuchObject for a 404 that is the object's, OriginFailure for the rest."""

        def run() -> T:
            return work(self._client())

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, run)
        except botocore_errors.ClientError as error:
            raise _from_client_error(operation, ref, error) from None
        except botocore_errors.BotoCoreError as error:
            for kind, fault, status in _TRANSPORT:
                if isinstance(error, kind):
                    raise OriginFailure(fault, operation, ref, type(error).__name__, status, str(error)) from None
            # Credentials that are missing or cannot be fetched, parameters that boto3 refuses.
            fault = Fault.DENIED if "Credential" in type(error).__name__ else Fault.REFUSED
            raise OriginFailure(fault, operation, ref, type(error).__name__, "local", str(error)) from None
        except ResponseParserError as error:
            # An answer that is not S3's XML: what it answers may have been done.
            raise OriginFailure(
                Fault.INCOMPLETE, operation, ref, "no XML", "incomplete", str(error)[:200]
            ) from None
        except ValueError as error:
            # boto3's own complaint about an endpoint that it cannot use.
            raise OriginFailure(Fault.REFUSED, operation, ref, "ValueError", "local", str(error)) from None

    async def get(self, ref: Ref, *, if_none_match: str = "", max_bytes: int) -> Stored | Absent:
        def work(client: S3Client) -> Stored | Absent:
            condition: Any = {"IfNoneMatch": if_none_match} if if_none_match else {}
            try:
                answer = client.get_object(Bucket=ref.bucket, Key=ref.key, **condition)
            except botocore_errors.ClientError as error:
                if _status(error) == 304:
                    return Absent.NOT_MODIFIED
                raise
            body = answer["Body"]
            size = answer["ContentLength"]
            if size > max_bytes:
                body.close()
                raise too_large(ref, size, max_bytes)
            value = body.read()
            if len(value) != size:
                raise OriginFailure(Fault.INCOMPLETE, "get", ref, f"{len(value)} of {size} bytes", "incomplete")
            return Stored(value, answer["ETag"], _own(answer["Metadata"]))

        try:
            return await self._call("get", ref, work)
        except _NoSuchObject:
            return Absent.MISSING

    async def head(self, ref: Ref) -> Info | None:
        def work(client: S3Client) -> Info | None:
            answer = client.head_object(Bucket=ref.bucket, Key=ref.key)
            modified = answer["LastModified"].timestamp()
            return Info(ref.key, answer["ContentLength"], answer["ETag"], modified, _own(answer["Metadata"]))

        try:
            return await self._call("head", ref, work)
        except _NoSuchObject:
            return None

    async def put(
        self,
        ref: Ref,
        value: bytes,
        *,
        if_match: str = "",
        if_absent: bool = False,
        metadata: Mapping[str, str] = NO_METADATA,
    ) -> str:
        def work(client: S3Client) -> str:
            condition: Any = {"IfNoneMatch": "*"} if if_absent else {"IfMatch": if_match} if if_match else {}
            answer = client.put_object(
                Bucket=ref.bucket, Key=ref.key, Body=value, Metadata=dict(metadata), **condition
            )
            return answer["ETag"]

        return await self._call("put", ref, work)

    async def delete(self, ref: Ref, *, if_match: str = "") -> None:
        def work(client: S3Client) -> None:
            condition: Any = {"IfMatch": if_match} if if_match else {}
            client.delete_object(Bucket=ref.bucket, Key=ref.key, **condition)

        with suppress(_NoSuchObject):
            await self._call("delete", ref, work)

    async def list(self, bucket: str, prefix: str, cursor: str, limit: int) -> Page:
        def work(client: S3Client) -> Page:
            after: Any = {"ContinuationToken": cursor} if cursor else {}
            answer = client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=limit, **after)
            objects = [
                Info(item["Key"], item["Size"], item["ETag"], item["LastModified"].timestamp())
                for item in answer.get("Contents", [])
            ]
            return Page(objects, answer.get("NextContinuationToken", ""))

        return await self._call("list", Ref(bucket, prefix), work)

    async def check_bucket(self, bucket: str) -> None:
        def work(client: S3Client) -> None:
            client.head_bucket(Bucket=bucket)

        await self._call("bucket", Ref(bucket, ""), work)

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _own(metadata: Mapping[str, str]) -> Mapping[str, str]:
    return {name.lower(): text for name, text in metadata.items()}


def _status(error: botocore_errors.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _from_client_error(operation: str, ref: Ref, error: botocore_errors.ClientError) -> Exception:
    code = str(error.response.get("Error", {}).get("Code", ""))
    text = str(error.response.get("Error", {}).get("Message", ""))
    status = _status(error)
    if operation == "put" and code == "NoSuchKey":
        # Said of the object that the put's condition names.
        return OriginFailure(Fault.CHANGED, operation, ref, code, str(status), text)
    if status == 404:
        # A HEAD has no body that could name the bucket; the rest of these cannot miss an object.
        if code == "NoSuchBucket" or operation in ("bucket", "put", "list"):
            return OriginFailure(Fault.NO_BUCKET, operation, ref, "NoSuchBucket", "404", text)
        return _NoSuchObject()
    return OriginFailure(fault_of_status(status, code), operation, ref, code, str(status), text)
