"""Shell. Requests of boto3 for multipart uploads that callers of the node make themselves, part by part."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from milena_cache.objects.object_store import Fault, OriginFailure, PartStream, Ref
from milena_cache.origin.s3.digest import md5_named_by
from milena_cache.origin.s3.ranges import range_header
from milena_common.api.byte_range import WHOLE, ByteRange
from milena_common.api.uploads import PartsPage, Upload, UploadedPart, UploadsPage

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def stream_part(client: S3Client, ref: Ref, upload: str, number: int, body: PartStream, is_opaque: Any) -> str:
    """Send a part while it comes, and return its ETag; `is_opaque` says of a response that it is no MD5."""
    stream: Any = body
    response = client.upload_part(
        Bucket=ref.bucket, Key=ref.key, UploadId=upload, PartNumber=number, Body=stream, ContentLength=body.length
    )
    etag = response.get("ETag", "")
    digest = md5_named_by(etag)
    # The request has no digest of its body, which was not known at its beginning.
    if not etag or (digest and digest != body.md5 and not is_opaque(response)):
        raise OriginFailure(
            Fault.INCOMPLETE, "part", ref, "damaged part", "200", f"its ETag is {etag or 'missing'}"
        )
    return etag


def copy_part(
    client: S3Client, ref: Ref, upload: str, number: int, source: Ref, byte_range: ByteRange, if_match: str
) -> UploadedPart:
    """Have S3 copy a part of an object, and return its ETag and time."""
    options: Any = {"CopySourceIfMatch": if_match} if if_match else {}
    if byte_range != WHOLE:
        options["CopySourceRange"] = range_header(byte_range)
    response = client.upload_part_copy(
        Bucket=ref.bucket,
        Key=ref.key,
        UploadId=upload,
        PartNumber=number,
        CopySource={"Bucket": source.bucket, "Key": source.key},
        **options,
    )
    copied: Any = response.get("CopyPartResult", {})
    if not copied.get("ETag"):
        raise OriginFailure(Fault.UNEXPECTED, "part", ref, "no ETag", "200")
    return UploadedPart(number, copied["ETag"], byte_range.length, seconds_of(copied.get("LastModified")))


def list_parts(client: S3Client, ref: Ref, upload: str, after: int, limit: int) -> PartsPage:
    """Return at most `limit` parts of an upload, those with numbers over `after`."""
    response: Any = client.list_parts(
        Bucket=ref.bucket, Key=ref.key, UploadId=upload, PartNumberMarker=after, MaxParts=limit
    )
    parts = [
        UploadedPart(
            each["PartNumber"], each.get("ETag", ""), each.get("Size", 0), seconds_of(each.get("LastModified"))
        )
        for each in response.get("Parts", [])
    ]
    return PartsPage(parts, bool(response.get("IsTruncated")))


def list_uploads(
    client: S3Client, bucket: str, prefix: str, delimiter: str, after: tuple[str, str], limit: int
) -> UploadsPage:
    """Return at most `limit` uploads of keys that begin with `prefix`, behind a key and an upload of it."""
    options: Any = {"Delimiter": delimiter} if delimiter else {}
    if after[0]:
        options["KeyMarker"] = after[0]
        if after[1]:
            options["UploadIdMarker"] = after[1]
    response: Any = client.list_multipart_uploads(Bucket=bucket, Prefix=prefix, MaxUploads=limit, **options)
    uploads = [
        Upload(each["Key"], each["UploadId"], seconds_of(each.get("Initiated")))
        for each in response.get("Uploads", [])
    ]
    prefixes = [each["Prefix"] for each in response.get("CommonPrefixes", [])]
    if not response.get("IsTruncated"):
        return UploadsPage(uploads, prefixes, "", "")
    return UploadsPage(uploads, prefixes, response.get("NextKeyMarker", ""), response.get("NextUploadIdMarker", ""))


def seconds_of(date: datetime | None) -> float:
    """Return a date of S3 as seconds since 1970; 0 if there is none."""
    return date.timestamp() if date is not None else 0.0
