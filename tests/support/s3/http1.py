"""Coordination. HTTP/1.1 messages read off a stream as the bytes that they are.

A proxy that parsed and rebuilt messages would tidy what it forwards: ``%2F``, ``a//b``, the case of a header.
Here a message is its head and its body as they were on the wire, chunk sizes included; what is parsed is only
what says where the message ends (RFC 9112, section 6).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

# Longer heads than any S3 client sends: a key of 1024 bytes, every one of them percent-encoded, and metadata.
STREAM_LIMIT = 2**20


@dataclass(frozen=True, slots=True)
class Head:
    """The part of a message before its body. `raw` ends with the empty line."""

    raw: bytes
    start: tuple[str, str, str]
    fields: dict[str, str]

    @property
    def chunked(self) -> bool:
        return self.fields.get("transfer-encoding", "").lower().endswith("chunked")

    @property
    def length(self) -> int | None:
        text = self.fields.get("content-length")
        return None if text is None else int(text)

    @property
    def keeps_alive(self) -> bool:
        """Whether the sender means to use the connection again."""
        version = self.start[0] if self.start[0].startswith("HTTP/") else self.start[2]
        connection = self.fields.get("connection", "").lower()
        return "close" not in connection and (version != "HTTP/1.0" or "keep-alive" in connection)

    def without(self, name: str) -> bytes:
        """`raw` with every field called `name` (lower case) left out."""
        lines = self.raw.split(b"\r\n")
        return b"\r\n".join(line for line in lines if line.partition(b":")[0].strip().lower() != name.encode())


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """The next message's head; None at the end of the stream."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = raw.decode("latin-1").split("\r\n")
    method_or_version, target_or_status, rest = [*first.split(" ", 2), "", ""][:3]
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            fields[name.strip().lower()] = value.strip()
    return Head(raw, (method_or_version, target_or_status, rest), fields)


async def read_body(reader: asyncio.StreamReader, head: Head, *, until_close: bool) -> bytes:
    """The body that belongs to `head`, as it was on the wire.

    `until_close`: a message that states no length ends with the connection (replies), or has no body (requests).
    Raises asyncio.IncompleteReadError when the sender stops short.
    """
    if head.chunked:
        return await _read_chunks(reader)
    if head.length is not None:
        return await reader.readexactly(head.length)
    return await reader.read(-1) if until_close else b""


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    raw = bytearray()
    while True:
        line = await reader.readuntil(b"\n")
        raw += line
        size = int(line.split(b";")[0], 16)
        if size == 0:
            break
        raw += await reader.readexactly(size + 2)
    while line.strip():
        line = await reader.readuntil(b"\n")
        raw += line
    return bytes(raw)
