"""Pure. Replies of an S3 endpoint."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final

from milena_common.s3.wire.errors import S3Error
from milena_common.s3.wire.request import S3Request
from milena_common.s3.wire.xml_output import error_document

XML: Final = "application/xml"


@dataclass(slots=True)
class Reply:
    """A reply.

    length: of the whole body
    body: all of it, or its first part
    more: the rest of it, in parts; None if there is none. An error ends the connection, short of the length
    release: called when the reply was sent, or its connection has ended
    """

    status: int
    headers: list[tuple[str, str]]
    length: int = 0
    body: bytes = b""
    more: AsyncIterator[bytes] | None = None
    release: Callable[[], None] | None = field(default=None, repr=False)


def xml_reply(content: bytes, headers: tuple[tuple[str, str], ...] = ()) -> Reply:
    """Return a successful reply with a document."""
    return Reply(200, [("content-type", XML), *headers], len(content), content)


def error_reply(request: S3Request, error: S3Error) -> Reply:
    """Return the reply that is an error."""
    headers = list(error.headers.items())
    if request.method == "HEAD" or error.status == 304:
        return Reply(error.status, headers)
    content = error_document(error, request.path, request.request_id)
    return Reply(error.status, [*headers, ("content-type", XML)], len(content), content)
