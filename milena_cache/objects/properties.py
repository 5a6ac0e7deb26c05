"""Pure. Properties of objects, as HTTP's headers have them, from and to the attributes of S3's client."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any, Final

from milena_cache.objects.expiry import without_milenas
from milena_cache.objects.object_store import Info
from milena_common.api.errors import InvalidRequest
from milena_common.api.properties import Properties

# The client's names by those of the headers.
_ATTRIBUTES: Final[Mapping[str, str]] = {
    "cache-control": "CacheControl",
    "content-disposition": "ContentDisposition",
    "content-encoding": "ContentEncoding",
    "content-language": "ContentLanguage",
    "content-type": "ContentType",
    "expires": "Expires",
}


def properties_of(info: Info) -> Properties:
    """Return the properties of an object from `describe`."""
    headers = {name: info.attributes[mine] for name, mine in _ATTRIBUTES.items() if info.attributes.get(mine)}
    expires = headers.get("expires")
    if isinstance(expires, datetime):
        headers["expires"] = format_datetime(expires.astimezone(UTC), usegmt=True)
    texts = {name: str(value) for name, value in headers.items()}
    return Properties(info.last_modified, texts, without_milenas(info.metadata))


def attributes_of(headers: Mapping[str, str]) -> dict[str, Any]:
    """Return the attributes of a put whose object is to have these headers. Raises InvalidRequest."""
    found: dict[str, Any] = {}
    for name, value in headers.items():
        attribute = _ATTRIBUTES.get(name)
        if attribute is None:
            raise InvalidRequest(f"headers: got {name[:80]!r}; allowed: {', '.join(_ATTRIBUTES)}")
        found[attribute] = _date(value) if name == "expires" else value
    return found


def _date(text: str) -> datetime:
    try:
        return parsedate_to_datetime(text)
    except ValueError:
        raise InvalidRequest(f"expires: got {text[:80]!r}; allowed: a date as HTTP has it") from None
