"""Pure. Reads the XML of requests: small documents, of which nothing is expanded or fetched.

Names of elements are taken without their namespace, which clients send or leave out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, NamedTuple
from xml.parsers import expat

from milena_common.api.uploads import MAX_PARTS, UploadedPart
from milena_common.s3.wire.conditions import quoted
from milena_common.s3.wire.errors import S3Error

# Of a document with 1000 keys of 1024 bytes, of which each may take six.
MAX_BYTES: Final = 8 * 2**20
MAX_DEPTH: Final = 8
# Enough for MAX_PARTS parts, each with its number, its ETag and a checksum.
MAX_ELEMENTS: Final = 60_000
MAX_DELETES: Final = 1000


@dataclass(slots=True)
class Element:
    """An element. `text`: all of its characters, without those of its children."""

    name: str
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def child(self, name: str) -> str:
        """Return the text of the first child with this name, "" if there is none."""
        return next((each.text for each in self.children if each.name == name), "")


class _Reader:
    def __init__(self) -> None:
        self.root: Element | None = None
        self._open: list[Element] = []
        self._number = 0

    def begin_element(self, name: str, _: Any) -> None:
        self._number += 1
        if len(self._open) >= MAX_DEPTH or self._number > MAX_ELEMENTS:
            raise malformed()
        element = Element(name.rpartition(" ")[2])
        if self._open:
            self._open[-1].children.append(element)
        else:
            self.root = element
        self._open.append(element)

    def finish_element(self, _: str) -> None:
        self._open.pop()

    def add_text(self, text: str) -> None:
        self._open[-1].text += text

    def reject_doctype(self, *_: Any) -> None:
        raise malformed()


def malformed() -> S3Error:
    """Return the error for a document that is not what the operation needs."""
    text = "The XML you provided was not well-formed or did not validate against our published schema"
    return S3Error("MalformedXML", text)


def parse(body: bytes, root: str) -> Element:
    """Return the document, whose outermost element is `root`. Raises S3Error."""
    if len(body) > MAX_BYTES:
        raise S3Error("MaxMessageLengthExceeded", f"The document has more than {MAX_BYTES} bytes")
    reader = _Reader()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler = reader.begin_element
    parser.EndElementHandler = reader.finish_element
    parser.CharacterDataHandler = reader.add_text
    # No entities of its own: they could name files, or expand without end.
    parser.StartDoctypeDeclHandler = reader.reject_doctype
    try:
        parser.Parse(body, True)
    except expat.ExpatError:
        raise malformed() from None
    if reader.root is None or reader.root.name != root:
        raise malformed()
    return reader.root


class Delete(NamedTuple):
    """A key to delete. `etag`: only the object with this one; "" for any."""

    key: str
    etag: str


def parse_delete(body: bytes) -> tuple[list[Delete], bool]:
    """Return what DeleteObjects is to delete, and True if its reply has only errors. Raises S3Error."""
    root = parse(body, "Delete")
    objects = [each for each in root.children if each.name == "Object"]
    if not 0 < len(objects) <= MAX_DELETES or any(each.child("VersionId") for each in objects):
        raise malformed()
    if any(each.child("LastModifiedTime") or each.child("Size") for each in objects):
        # Conditions of directory buckets: without them more would be deleted.
        text = "LastModifiedTime, Size: are not supported here; allowed is ETag; nothing was deleted"
        raise S3Error("InvalidRequest", text)
    deletes = [Delete(each.child("Key"), each.child("ETag").strip()) for each in objects]
    return deletes, root.child("Quiet").strip().lower() == "true"


def parse_parts(body: bytes) -> list[UploadedPart]:
    """Return the parts, by number and ETag, of which CompleteMultipartUpload makes the object. Raises S3Error."""
    root = parse(body, "CompleteMultipartUpload")
    listed = [each for each in root.children if each.name == "Part"]
    if not 0 < len(listed) <= MAX_PARTS:
        raise malformed()
    parts: list[UploadedPart] = []
    for each in listed:
        number, etag = each.child("PartNumber").strip(), each.child("ETag").strip()
        if not (number.isascii() and number.isdecimal() and len(number) <= 5) or not etag:
            raise malformed()
        parts.append(UploadedPart(int(number), quoted(etag)))
    if any(one.number >= other.number for one, other in pairwise(parts)):
        raise S3Error("InvalidPartOrder", "The list of parts was not in ascending order by part number.")
    if not 0 < parts[0].number <= parts[-1].number <= MAX_PARTS:
        raise S3Error("InvalidArgument", f"Part number must be an integer between 1 and {MAX_PARTS}, inclusive")
    return parts
