"""Pure. What S3 keeps with an object beside its value, from a HEAD's answer to the request that repeats it.

A write replaces all of it, so a write that is to change nothing but metadata repeats it. Names are boto3's, the
same in answers and requests. Not repeated: ACLs, object locks and checksums, which S3 gives to the new object by
the bucket's rules.
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
    """What a later write must repeat of the object that this HEAD is about."""
    return {name: response[name] for name in REPEATED if response.get(name)}


def sendable(metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata as boto3 takes it: text beyond ASCII in RFC 2047's words, in which S3 itself answers it."""
    return {name: text if text.isascii() else _encoded(text) for name, text in metadata.items()}


def _encoded(text: str) -> str:
    with suppress(ValueError):
        text = text.encode("latin-1").decode()  # headers arrive as Latin-1, and were UTF-8 when they were written
    return f"=?UTF-8?B?{b64encode(text.encode()).decode()}?="
