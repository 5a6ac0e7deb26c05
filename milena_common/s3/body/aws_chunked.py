"""Pure. Decodes bodies with Content-Encoding `aws-chunked`: chunks of data, signed or not, and trailers.

    <size in hexadecimal>[;chunk-signature=…] CRLF <data> CRLF … 0[;…] CRLF [<trailer>: <value> CRLF …] CRLF

HTTP's own chunks, in which such a body may come, are undone before.
"""

from __future__ import annotations

import hmac
import re
from hashlib import sha256
from typing import Final

from milena_common.s3.signing.signatures import ChunkSignatures
from milena_common.s3.wire.errors import S3Error

# Bytes of the line before a chunk, and of all trailers.
MAX_LINE: Final = 1024
MAX_TRAILERS: Final = 8192

_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,12})(?:;chunk-signature=([0-9a-f]{64}))?(?:;[^\r\n]*)?")
_SIGNATURE: Final = "x-amz-trailer-signature"


class AwsChunked:
    """Decodes one body. `signatures`: how its chunks have to be signed; None: they are not.

    trailers: by name in lower case, when the body is `complete`
    """

    def __init__(self, signatures: ChunkSignatures | None = None, *, signed_trailers: bool = False) -> None:
        self.trailers: dict[str, str] = {}
        self.complete = False
        self._signatures = signatures
        self._signed_trailers = signed_trailers
        self._previous = signatures.seed if signatures is not None else ""
        self._buffer = bytearray()
        self._missing = -1  # bytes of the present chunk that have not come; -1 between chunks
        self._in_trailers = False
        self._expected = ""
        self._hash = sha256()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the decoded data in the next bytes of the body. Raises S3Error."""
        found: list[bytes] = []
        self._buffer += data
        buffer = self._buffer
        while buffer or self._missing == 0:
            if self.complete:
                raise _malformed("there are bytes behind the end of the body")
            if self._in_trailers:
                if not self._take_trailers():
                    break
            elif self._missing > 0:
                part = bytes(buffer[: self._missing])
                del buffer[: len(part)]
                self._missing -= len(part)
                if self._signatures is not None:
                    self._hash.update(part)
                found.append(part)
            elif self._missing == 0:
                if len(buffer) < 2:
                    break
                if buffer[:2] != b"\r\n":
                    raise _malformed("a chunk is longer than its size")
                del buffer[:2]
                self._verify_chunk()
                self._missing = -1
            elif not self._take_line():
                break
        return found

    def _take_line(self) -> bool:
        """Take the line before a chunk; False if it has not come."""
        end = self._buffer.find(b"\r\n", 0, MAX_LINE)
        if end < 0:
            if len(self._buffer) >= MAX_LINE:
                raise _malformed("the line before a chunk is too long")
            return False
        match = _CHUNK.fullmatch(bytes(self._buffer[:end]))
        if match is None:
            raise _malformed("the line before a chunk is not its size")
        del self._buffer[: end + 2]
        size = int(match[1], 16)
        self._expected = (match[2] or b"").decode()
        if size:
            self._missing = size
        else:
            self._verify_chunk()
            self._in_trailers = True
        return True

    def _verify_chunk(self) -> None:
        if self._signatures is None:
            return
        self._compare(self._signatures.of_chunk(self._previous, self._hash.hexdigest()), self._expected)
        self._previous = self._expected
        self._hash = sha256()

    def _compare(self, expected: str, signature: str) -> None:
        if not hmac.compare_digest(expected, signature):
            raise S3Error("SignatureDoesNotMatch", "The signature of a chunk of the body does not match its bytes")

    def _take_trailers(self) -> bool:
        buffer = self._buffer
        if buffer.startswith(b"\r\n"):
            end, size = 0, 2
        else:
            end = buffer.find(b"\r\n\r\n", 0, MAX_TRAILERS)
            size = end + 4
        if end < 0:
            if len(buffer) >= MAX_TRAILERS:
                raise _malformed("the trailers are too long")
            return False
        lines = bytes(buffer[:end]).decode("latin-1").split("\r\n") if end else []
        del buffer[:size]
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon:
                raise _malformed("a trailer has no value")
            self.trailers[name.strip().lower()] = value.strip()
        if self._signatures is not None and self._signed_trailers:
            signature = self.trailers.pop(_SIGNATURE, "")
            text = "".join(f"{name}:{value}\n" for name, value in self.trailers.items())
            digest = sha256(text.encode("latin-1")).hexdigest()
            self._compare(self._signatures.of_trailer(self._previous, digest), signature)
        self.complete = True
        return True


def _malformed(why: str) -> S3Error:
    return S3Error("InvalidRequest", f"The body is not in the aws-chunked format: {why}")
