"""Pure. The headers and user metadata of a put that S3 keeps with the object.

Headers that would change what is stored, and that are not kept here, are refused and not ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from milena_common.api.durability import DURABILITIES
from milena_common.api.properties import KEPT_HEADERS, Properties
from milena_common.s3.wire.errors import S3Error

META: Final = "x-amz-meta-"
# Milena's own names of metadata: tools that copy an object copy them too, and they mean nothing for the copy.
OWN: Final = "milena-"
MAX_METADATA_BYTES: Final = 2048
AWS_CHUNKED: Final = "aws-chunked"

_REJECTED: Final = (
    *("x-amz-server-side-encryption", "x-amz-tagging", "x-amz-object-lock-", "x-amz-website-redirect-location"),
    *("x-amz-grant-", "x-amz-write-offset-bytes"),
)
# Values of headers that change nothing.
_HARMLESS: Final[Mapping[str, tuple[str, ...]]] = {
    "x-amz-acl": ("private", "bucket-owner-full-control"),
    "x-amz-storage-class": ("STANDARD",),
}


def durability_of(headers: Mapping[str, str]) -> str:
    """Return the durability class that a write names, "" if none. Raises S3Error."""
    durability = headers.get("x-milena-durability", "")
    if durability and durability not in DURABILITIES:
        raise S3Error("InvalidArgument", f"x-milena-durability: allowed are {', '.join(DURABILITIES)}")
    return durability


def properties_of(headers: Mapping[str, str]) -> Properties:
    """Return what a put is to keep; its `last_modified` is 0. Raises S3Error."""
    kept: dict[str, str] = {}
    metadata: dict[str, str] = {}
    for name, value in headers.items():
        if name in KEPT_HEADERS:
            kept[name] = value
        elif name.startswith(META):
            own = name.removeprefix(META)
            if not own.startswith(OWN):
                metadata[own] = value
        elif name.startswith("x-amz-") and (
            name.startswith(_REJECTED) or (name in _HARMLESS and value not in _HARMLESS[name])
        ):
            raise S3Error("InvalidRequest", f"{name}: is not supported here with this value; nothing was stored")
    encoding = kept.pop("content-encoding", "").strip()
    if AWS_CHUNKED in encoding.lower():
        # That of the request; everything else is the object's, as the client has written it.
        encodings = [each.strip() for each in encoding.split(",")]
        encoding = ", ".join(each for each in encodings if each and each.lower() != AWS_CHUNKED)
    if encoding:
        kept["content-encoding"] = encoding
    if sum(len(name) + len(value) for name, value in metadata.items()) > MAX_METADATA_BYTES:
        raise S3Error("MetadataTooLarge", "Your metadata headers exceed the maximum allowed metadata size")
    return Properties(0.0, kept, metadata)
