"""Pure. The parameters and replies of ListObjects, ListObjectsV2 and ListMultipartUploads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple
from urllib.parse import quote

from milena_common.api.keys import MAX_KEY_BYTES
from milena_common.api.uploads import UploadsPage
from milena_common.s3.objects import Listed
from milena_common.s3.wire.errors import S3Error
from milena_common.s3.wire.request import S3Request
from milena_common.s3.wire.xml_output import document, element, escaped, owner, timestamp

MAX_KEYS: Final = 1000


class UploadsRequest(NamedTuple):
    """What ListMultipartUploads lists: at most `limit` uploads behind a key and an upload of it (`after`)."""

    bucket: str
    prefix: str
    delimiter: str
    limit: int
    after: tuple[str, str]
    encoded: bool


def uploads_request(request: S3Request, bucket: str) -> UploadsRequest:
    """Return what a request lists. Raises S3Error."""
    _check_names(request, ("prefix", "delimiter", "key-marker"))
    return UploadsRequest(
        bucket,
        request.parameter("prefix"),
        request.parameter("delimiter"),
        max(1, min(whole_number(request, "max-uploads", MAX_KEYS), MAX_KEYS)),
        (request.parameter("key-marker"), request.parameter("upload-id-marker")),
        _is_encoded(request),
    )


def uploads_document(listing: UploadsRequest, page: UploadsPage, user: str) -> bytes:
    """Return the reply to ListMultipartUploads."""

    def name(text: str) -> str:
        return quote(text, safe="/-_.~") if listing.encoded else escaped(text)

    content = [
        element("Bucket", listing.bucket),
        f"<KeyMarker>{name(listing.after[0])}</KeyMarker>",
        element("UploadIdMarker", listing.after[1]),
        f"<Prefix>{name(listing.prefix)}</Prefix>",
        element("MaxUploads", str(listing.limit)),
        element("IsTruncated", "true" if page.next_key else "false"),
    ]
    if listing.delimiter:
        content.append(f"<Delimiter>{name(listing.delimiter)}</Delimiter>")
    if listing.encoded:
        content.append("<EncodingType>url</EncodingType>")
    if page.next_key:
        content.append(f"<NextKeyMarker>{name(page.next_key)}</NextKeyMarker>")
        content.append(element("NextUploadIdMarker", page.next_upload))
    owned = owner(user).replace("Owner>", "Initiator>") + owner(user)
    for each in page.uploads:
        content.append(
            f"<Upload><Key>{name(each.key)}</Key>{element('UploadId', each.upload)}{owned}"
            f"<StorageClass>STANDARD</StorageClass>{element('Initiated', timestamp(each.initiated))}</Upload>"
        )
    content += [f"<CommonPrefixes><Prefix>{name(prefix)}</Prefix></CommonPrefixes>" for prefix in page.prefixes]
    return document("ListMultipartUploadsResult", *content)


def whole_number(request: S3Request, name: str, default: int) -> int:
    """Return a parameter that is a number from 0. Raises S3Error."""
    text = request.parameter(name) or str(default)
    if not (text.isascii() and text.isdecimal()) or len(text) > 10:
        raise S3Error("InvalidArgument", f"{name}: allowed are whole numbers from 0")
    return int(text)


def _is_encoded(request: S3Request) -> bool:
    encoding = request.parameter("encoding-type")
    if encoding not in ("", "url"):
        raise S3Error("InvalidArgument", "Invalid Encoding Method specified in Request")
    return encoding == "url"


def _check_names(request: S3Request, names: Sequence[str]) -> None:
    for name in names:
        value = request.parameter(name)
        if len(value.encode()) > MAX_KEY_BYTES or "\0" in value:
            raise S3Error("InvalidArgument", f"{name}: allowed are at most {MAX_KEY_BYTES} bytes without NUL")


class ListRequest(NamedTuple):
    """What is listed.

    version: 1 or 2
    limit: names in the reply
    requested: MAX_KEYS as the client has it
    after: the key behind which the listing begins
    cursor: where it continues; "" at its beginning
    encoded: True if names are encoded as in a URL
    with_owner: True if each object has its owner
    """

    version: int
    bucket: str
    prefix: str
    delimiter: str
    limit: int
    requested: int
    after: str
    cursor: str
    encoded: bool
    with_owner: bool


def list_request(request: S3Request, bucket: str) -> ListRequest:
    """Return what a request lists. Raises S3Error."""
    version = 2 if request.parameter("list-type") == "2" else 1
    requested = whole_number(request, "max-keys", MAX_KEYS)
    encoded = _is_encoded(request)
    _check_names(request, ("prefix", "delimiter", "marker", "start-after"))
    token = request.parameter("continuation-token")
    if version == 2 and not token and any(name == "continuation-token" for name, _ in request.parameters):
        raise S3Error("InvalidArgument", "The continuation token provided is incorrect")
    return ListRequest(
        version=version,
        bucket=bucket,
        prefix=request.parameter("prefix"),
        delimiter=request.parameter("delimiter"),
        limit=min(requested, MAX_KEYS),
        requested=requested,
        after=request.parameter("start-after" if version == 2 else "marker"),
        cursor=token if version == 2 else "",
        encoded=encoded,
        with_owner=version == 1 or request.parameter("fetch-owner") == "true",
    )


def list_document(listing: ListRequest, page: Listed, token: str, user: str) -> bytes:
    """Return the reply. `token`: the continuation token that the client sent."""

    def name(text: str) -> str:
        return quote(text, safe="/-_.~") if listing.encoded else escaped(text)

    truncated = bool(page.cursor)
    content = [
        element("Name", listing.bucket),
        f"<Prefix>{name(listing.prefix)}</Prefix>",
        f"<MaxKeys>{listing.requested}</MaxKeys>",
    ]
    if listing.delimiter:
        content.append(f"<Delimiter>{name(listing.delimiter)}</Delimiter>")
    if listing.encoded:
        content.append("<EncodingType>url</EncodingType>")
    content.append(f"<IsTruncated>{'true' if truncated else 'false'}</IsTruncated>")
    if listing.version == 2:
        content.append(f"<KeyCount>{len(page.items) + len(page.prefixes)}</KeyCount>")
        if listing.after:
            content.append(f"<StartAfter>{name(listing.after)}</StartAfter>")
        if token:
            content.append(element("ContinuationToken", token))
        if truncated:
            content.append(element("NextContinuationToken", page.cursor))
    else:
        content.append(f"<Marker>{name(listing.after)}</Marker>")
        if truncated:
            last = max((*(item.key for item in page.items[-1:]), *page.prefixes[-1:]), default=listing.after)
            content.append(f"<NextMarker>{name(last)}</NextMarker>")
    owned = owner(user) if listing.with_owner else ""
    for item in page.items:
        content.append(
            f"<Contents><Key>{name(item.key)}</Key>{element('LastModified', timestamp(item.last_modified))}"
            f"{element('ETag', item.etag)}<Size>{item.size}</Size>{owned}<StorageClass>STANDARD</StorageClass>"
            "</Contents>"
        )
    content += [f"<CommonPrefixes><Prefix>{name(prefix)}</Prefix></CommonPrefixes>" for prefix in page.prefixes]
    return document("ListBucketResult", *content)
