"""Pure. Converts an object's attributes in S3 from a HEAD's response to the request that repeats them.

A write replaces all attributes, so a write that changes only metadata repeats them. Names are boto3's, the same in
responses and requests. Not repeated: ACLs, object locks and checksums, which S3 sets on the new object by the
bucket's rules.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

REPEATED = (
    "BucketKeyEnabled",
    "CacheControl",
    "ContentDisposition",
    "ContentEncoding",
    "ContentLanguage",
    "ContentType",
    "Expires",
    "SSEKMSKeyId",
    "ServerSideEncryption",
    "StorageClass",
    "WebsiteRedirectLocation",
)


def attributes_of(response: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes in a HEAD's response that a later write must repeat."""
    return {name: response[name] for name in REPEATED if response.get(name)}


def sendable(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return metadata for a request: text beyond ASCII as encoded words of RFC 2047, as in S3's own responses."""
    return {name: text if text.isascii() else _encoded(text) for name, text in metadata.items()}


def _encoded(text: str) -> str:
    with suppress(ValueError):
        text = text.encode("latin-1").decode()  # headers are decoded as Latin-1, and were written as UTF-8
    return f"=?UTF-8?B?{b64encode(text.encode()).decode()}?="
