"""Pure. The objects of the S3 stub: the effect of each request, and its response.

It implements the part of S3 that boto3 and obstore use on plain objects. A request is (method, path, query, fields,
body); a response is (status, fields, body). Signatures are not checked, every bucket exists, and an ETag is a cheap
checksum of the value, in S3's form, or its MD5.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import md5
from urllib.parse import parse_qs, quote, unquote_to_bytes
from xml.sax.saxutils import escape

_DATE = "Wed, 01 Jan 2025 00:00:00 GMT"
_ISO_DATE = "2025-01-01T00:00:00.000Z"
_XML = '<?xml version="1.0" encoding="UTF-8"?>\n'
_PAGE = 1000
# Larger synthetic values are not made as a whole.
IN_MEMORY_BYTES = 64 * 2**20


class Repeated:
    """`seed` repeated up to `size` bytes, as a sequence of bytes that is not in memory. Slices have a step of 1."""

    __slots__ = ("_first", "_seed", "_size")

    def __init__(self, seed: bytes, size: int, first: int = 0) -> None:
        self._seed = seed
        self._size = size
        self._first = first

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> Repeated:
        start, stop, _ = part.indices(self._size)
        return Repeated(self._seed, max(0, stop - start), (self._first + start) % len(self._seed))

    def __bytes__(self) -> bytes:
        return (self._seed * (self._size // len(self._seed) + 2))[self._first : self._first + self._size]


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response; `content_length` where it is not the length of `body` (HEAD)."""

    status: int
    fields: str = ""
    body: bytes | Repeated = b""
    content_length: int | None = None


@dataclass(frozen=True, slots=True)
class _Object:
    """An object. `metadata` is kept as encoded header fields of responses."""

    value: bytes | Repeated
    etag: str
    metadata: str = ""


def _cheap_etag(value: bytes) -> str:
    # Adler-32 is the cheapest checksum available; with the length it has the form of S3's MD5.
    return f'"{zlib.adler32(value):08x}{len(value):024x}"'


def _md5_etag(value: bytes) -> str:
    return f'"{md5(value, usedforsecurity=False).hexdigest()}"'


def _error(status: int, code: str, message: str) -> Response:
    body = f"{_XML}<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Response(status, "Content-Type: application/xml\r\n", body.encode())


_NO_SUCH_KEY = _error(404, "NoSuchKey", "The specified key does not exist.")
_NOT_IMPLEMENTED = _error(501, "NotImplemented", "This is a stub for benchmarks.")
_PRECONDITION_FAILED = _error(412, "PreconditionFailed", "At least one of the pre-conditions did not hold.")


def _unchunked(body: bytes) -> bytes:
    """Return the data inside chunks; chunk extensions (signatures) and trailers (checksums) are dropped."""
    data, at = bytearray(), 0
    while True:
        line_end = body.index(b"\r\n", at)
        size = int(body[at:line_end].split(b";")[0], 16)
        if size == 0:
            return bytes(data)
        data += body[line_end + 2 : line_end + 2 + size]
        at = line_end + 4 + size


class Objects:
    """Buckets of objects. With `synthetic` bytes, every key that was not written or deleted exists, that size,
    except those by which nodes check what the store can do.

    Of values above `kept` bytes only the ETag is kept, for bursts of more bytes than the machine has memory for.
    Synthetic values above IN_MEMORY_BYTES are made piece by piece, and have an ETag of their path and size.
    With `md5_etags` ETags are S3's: a node then compares values with them, and what is dirty has the ETag that it
    has in S3 afterwards. Otherwise they cost less, and a condition on the ETag of what is dirty fails afterwards.
    """

    def __init__(self, synthetic: int | None = None, kept: int | None = None, *, md5_etags: bool = False) -> None:
        self._etag_of = _md5_etag if md5_etags else _cheap_etag
        self._synthetic = synthetic
        self._kept = kept
        self._objects: dict[str, _Object | None] = {}

    def respond(self, method: str, target: str, fields: Mapping[str, str], body: bytes) -> Response:
        """Return the response; `target` is raw, `fields` have lower-case names, transfer chunks are decoded."""
        path, _, query = target.partition("?")
        bucket, _, key = path[1:].partition("/")
        if fields.get("content-encoding", "").startswith("aws-chunked"):
            body = _unchunked(body)
        if not key:
            return self._bucket(method, bucket, query, body)
        if method in ("GET", "HEAD"):
            return self._get(method, path, fields)
        if method == "PUT":
            return self._put(path, fields, body)
        if method == "DELETE":
            return self._delete(path, fields)
        # Multipart uploads. After a transient error a node would repeat its probe.
        return _NOT_IMPLEMENTED

    def _find(self, path: str) -> _Object | None:
        if path in self._objects:
            return self._objects[path]
        if self._synthetic is None or "/.milena-" in path:
            return None
        if self._synthetic > IN_MEMORY_BYTES:
            seed = synthetic_seed(path)
            return _Object(Repeated(seed, self._synthetic), f'"{seed.decode()}{self._synthetic:024x}"')
        value = synthetic_value(path, self._synthetic)
        return _Object(value, self._etag_of(value))

    def _get(self, method: str, path: str, fields: Mapping[str, str]) -> Response:
        found = self._find(path)
        if found is None:
            return Response(404) if method == "HEAD" else _NO_SUCH_KEY
        head = f"ETag: {found.etag}\r\nLast-Modified: {_DATE}\r\nAccept-Ranges: bytes\r\n{found.metadata}"
        if fields.get("if-none-match") in (found.etag, "*"):
            return Response(304, head)
        status, value = 200, found.value
        requested = re.fullmatch(r"bytes=(\d*)-(\d*)", fields.get("range", ""))
        if requested and (requested[1] or requested[2]):
            size = len(value)
            first = int(requested[1]) if requested[1] else max(0, size - int(requested[2]))
            last = min(int(requested[2]), size - 1) if requested[1] and requested[2] else size - 1
            if first > last:
                return _error(416, "InvalidRange", "The requested range is not satisfiable")
            status, value = 206, value[first : last + 1]
            head += f"Content-Range: bytes {first}-{last}/{size}\r\n"
        head += "Content-Type: application/octet-stream\r\n"
        return Response(status, head, b"" if method == "HEAD" else value, len(value))

    def _put(self, path: str, fields: Mapping[str, str], body: bytes) -> Response:
        if "if-match" in fields or "if-none-match" in fields:
            found = self._find(path)
            if "if-match" in fields and found is None:
                return _NO_SUCH_KEY
            matches = fields.get("if-match") in (None, "*", found and found.etag)
            if not matches or ("if-none-match" in fields and found is not None):
                return _PRECONDITION_FAILED
        metadata = ""
        for name in fields:
            if name[:11] == "x-amz-meta-":
                metadata += f"{name}: {fields[name]}\r\n"
        is_kept = self._kept is None or len(body) <= self._kept
        stored = _Object(body if is_kept else b"", self._etag_of(body), metadata)
        self._objects[path] = stored
        return Response(200, f"ETag: {stored.etag}\r\n")

    def _delete(self, path: str, fields: Mapping[str, str]) -> Response:
        if "if-match" in fields:
            found = self._find(path)
            if found is not None and fields["if-match"] not in ("*", found.etag):
                return _PRECONDITION_FAILED
        self._objects[path] = None
        return Response(204)

    # ---- buckets

    def _bucket(self, method: str, bucket: str, query: str, body: bytes) -> Response:
        parameters = {name: values[0] for name, values in parse_qs(query, keep_blank_values=True).items()}
        if method in ("HEAD", "PUT"):
            return Response(200)
        if method == "GET" and parameters.get("list-type") == "2":
            return self._list(bucket, parameters)
        return _NOT_IMPLEMENTED

    def _list(self, bucket: str, parameters: Mapping[str, str]) -> Response:
        start = f"/{bucket}/"
        prefix = parameters.get("prefix", "")
        after = parameters.get("continuation-token", parameters.get("start-after", ""))
        limit = min(int(parameters.get("max-keys", _PAGE)), _PAGE)
        delimiter = parameters.get("delimiter", "")
        found: dict[str, _Object | None] = {}  # by key, or by common prefix: None
        for path, stored in self._objects.items():
            if stored is not None and path.startswith(start):
                key = unquote_to_bytes(path[len(start) :]).decode()
                end = key.find(delimiter, len(prefix)) if delimiter else -1
                name = key if end < 0 else key[: end + len(delimiter)]
                if key.startswith(prefix) and name > after:
                    found[name] = stored if end < 0 else None
        names = sorted(found)
        encode = quote if parameters.get("encoding-type") == "url" else escape
        rows = "".join(
            f"<CommonPrefixes><Prefix>{encode(name)}</Prefix></CommonPrefixes>"
            if (stored := found[name]) is None
            else f"<Contents><Key>{encode(name)}</Key><LastModified>{_ISO_DATE}</LastModified>"
            f"<ETag>{escape(stored.etag)}</ETag><Size>{len(stored.value)}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
            for name in names[:limit]
        )
        more = len(names) > limit
        token = f"<NextContinuationToken>{escape(names[limit - 1])}</NextContinuationToken>" if more else ""
        encoding = "<EncodingType>url</EncodingType>" if encode is quote else ""
        document = (
            f"{_XML}<ListBucketResult><Name>{bucket}</Name><Prefix>{encode(prefix)}</Prefix>{encoding}"
            f"<KeyCount>{len(names[:limit])}</KeyCount><MaxKeys>{limit}</MaxKeys>"
            f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>{token}{rows}</ListBucketResult>"
        )
        return Response(200, "Content-Type: application/xml\r\n", document.encode())


def synthetic_value(path: str, size: int) -> bytes:
    """Return the content of a path, the same in every process: its checksum, repeated."""
    return bytes(Repeated(synthetic_seed(path), size))


def synthetic_seed(path: str) -> bytes:
    return b"%08x" % zlib.crc32(path.encode())
