"""Pure. Equality of ETags, the only conclusion that they allow.

Proxies and S3-compatible stores spell one object's ETag in several ways: quoted, unquoted, or marked as weak (`W/`)
by a proxy that compressed a response. All these spellings name the same bytes.
"""

from __future__ import annotations


def same_etag(one: str, other: str) -> bool:
    """True if both ETags name the same bytes. An empty ETag (the store gave none) equals nothing."""
    return bool(one) and (one == other or _opaque(one) == _opaque(other))


def _opaque(etag: str) -> str:
    text = etag.removeprefix("W/")
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text
