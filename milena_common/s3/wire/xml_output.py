"""Pure. The XML documents of replies, without a library: they have few elements, and a listing has many of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from milena_common.api.uploads import PartsPage
from milena_common.s3.wire.errors import S3Error

HEAD: Final = '<?xml version="1.0" encoding="UTF-8"?>\n'
NAMESPACE: Final = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
# The names of what GetObjectAttributes returns.
ATTRIBUTES: Final = frozenset(("Checksum", "ETag", "ObjectParts", "ObjectSize", "StorageClass"))
_SPECIAL: Final = re.compile('[&<>"\x00-\x1f\x7f]')
_ESCAPED: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}


def escaped(text: str) -> str:
    """Return text as it is in a document; control characters by their number, as S3 has them."""
    return _SPECIAL.sub(lambda match: _ESCAPED.get(match[0], f"&#{ord(match[0])};"), text)


def element(name: str, text: str) -> str:
    """Return an element with a text."""
    return f"<{name}>{escaped(text)}</{name}>"


def document(name: str, *content: str) -> bytes:
    """Return a document."""
    return f"{HEAD}<{name} {NAMESPACE}>{''.join(content)}</{name}>".encode()


def timestamp(seconds: float) -> str:
    """Return seconds since 1970 as S3's documents have it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def error_document(error: S3Error, resource: str, request_id: str) -> bytes:
    """Return the document of an error."""
    content = "".join(
        (
            element("Code", error.code),
            element("Message", error.message),
            element("Resource", resource),
            element("RequestId", request_id),
        )
    )
    return f"{HEAD}<Error>{content}</Error>".encode()


def created_document(bucket: str, key: str, upload: str) -> bytes:
    """Return the reply to CreateMultipartUpload."""
    names = element("Bucket", bucket) + element("Key", key)
    return document("InitiateMultipartUploadResult", names, element("UploadId", upload))


def completed_document(location: str, bucket: str, key: str, etag: str) -> bytes:
    """Return the reply to CompleteMultipartUpload."""
    names = element("Location", location) + element("Bucket", bucket) + element("Key", key)
    return document("CompleteMultipartUploadResult", names, element("ETag", etag))


def attributes_document(attributes: frozenset[str], etag: str, size: int) -> bytes:
    """Return the reply to GetObjectAttributes; checksums are not known here."""
    content = []
    if "ETag" in attributes:
        content.append(element("ETag", etag.strip('"')))
    parts = etag.strip('"').partition("-")[2]
    if "ObjectParts" in attributes and parts.isdecimal():
        content.append(f"<ObjectParts>{element('PartsCount', parts)}</ObjectParts>")
    if "StorageClass" in attributes:
        content.append(element("StorageClass", "STANDARD"))
    if "ObjectSize" in attributes:
        content.append(element("ObjectSize", str(size)))
    return document("GetObjectAttributesResponse", *content)


def copied_document(name: str, etag: str, last_modified: float) -> bytes:
    """Return the reply to a copy: CopyObjectResult or CopyPartResult."""
    return document(name, element("LastModified", timestamp(last_modified)), element("ETag", etag))


def parts_document(bucket: str, key: str, upload: str, after: int, limit: int, page: PartsPage, user: str) -> bytes:
    """Return the reply to ListParts."""
    content = [
        element("Bucket", bucket),
        element("Key", key),
        element("UploadId", upload),
        owner(user).replace("Owner>", "Initiator>"),
        owner(user),
        element("StorageClass", "STANDARD"),
        element("PartNumberMarker", str(after)),
        element("MaxParts", str(limit)),
        element("IsTruncated", "true" if page.truncated else "false"),
    ]
    if page.truncated:
        content.append(element("NextPartNumberMarker", str(page.parts[-1].number if page.parts else after)))
    for part in page.parts:
        content.append(
            f"<Part><PartNumber>{part.number}</PartNumber>{element('LastModified', timestamp(part.last_modified))}"
            f"{element('ETag', part.etag)}<Size>{part.size}</Size></Part>"
        )
    return document("ListPartsResult", *content)


def buckets_document(names: Sequence[str], user: str) -> bytes:
    """Return the reply to ListBuckets. Buckets have no date of their own here."""
    date = element("CreationDate", timestamp(0))
    listed = "".join(f"<Bucket>{element('Name', name)}{date}</Bucket>" for name in names)
    return document("ListAllMyBucketsResult", owner(user), f"<Buckets>{listed}</Buckets>")


def owner(user: str) -> str:
    """Return the element of an owner."""
    return f"<Owner>{element('ID', user)}{element('DisplayName', user)}</Owner>"


def acl_document(user: str) -> bytes:
    """Return an ACL by which `user` owns everything, and no other user has any permission."""
    grantee = (
        '<Grantee xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="CanonicalUser">'
        f"{element('ID', user)}{element('DisplayName', user)}</Grantee>"
    )
    grant = f"<Grant>{grantee}<Permission>FULL_CONTROL</Permission></Grant>"
    return document("AccessControlPolicy", owner(user), f"<AccessControlList>{grant}</AccessControlList>")


def delete_document(deleted: Sequence[str], errors: Sequence[tuple[str, S3Error]]) -> bytes:
    """Return the reply to DeleteObjects."""
    content = [f"<Deleted>{element('Key', key)}</Deleted>" for key in deleted]
    for key, error in errors:
        content.append(
            f"<Error>{element('Key', key)}{element('Code', error.code)}{element('Message', error.message)}</Error>"
        )
    return document("DeleteResult", *content)
