"""Pure. Converts an encoded reply of RESP3 to RESP2, as the server that made it would have encoded it there."""

from __future__ import annotations

from typing import Final

from milena_common.resp.encoding import RESP2, bulk, null

_NULL2: Final = null(RESP2)
# Types that both protocols have, and that contain no other.
_SAME: Final = frozenset(b"+-:")
_ARRAYS: Final = {ord("*"): 1, ord("~"): 1, ord(">"): 1, ord("%"): 2}


def to_resp2(reply: bytes) -> bytes:
    """Return a complete RESP3 reply in RESP2; one that is in RESP2 stays as it is.

    Raises ValueError for one that is malformed.
    """
    kind = reply[0]
    if kind == ord("$") or kind in _SAME:
        return reply
    if kind == ord("_"):
        return _NULL2
    parts: list[bytes] = []
    _convert(reply, parts)
    return b"".join(parts)


def _convert(reply: bytes, parts: list[bytes]) -> None:
    """Append the conversion of `reply`, element by element: replies may be nested to any depth."""
    at, end = 0, len(reply)
    while at < end:
        line_end = reply.index(b"\r\n", at)
        kind, line, after = reply[at], reply[at + 1 : line_end], line_end + 2
        if kind in _SAME:
            parts.append(reply[at:after])
        elif kind in _ARRAYS:
            parts.append(b"*%d\r\n" % (int(line) * _ARRAYS[kind]) if line != b"-1" else b"*-1\r\n")
        elif kind == ord("$"):
            stop = after + int(line) + 2 if line != b"-1" else after
            parts.append(reply[at:stop])
            after = stop
        elif kind == ord("_"):
            parts.append(_NULL2)
        elif kind == ord("#"):
            parts.append(b":1\r\n" if line == b"t" else b":0\r\n")
        elif kind in b",(":
            parts.append(bulk(line))
        elif kind in b"=!":
            stop = after + int(line) + 2
            text = reply[after : stop - 2]
            parts.append(b"-%b\r\n" % text if kind == ord("!") else bulk(text[4:]))
            after = stop
        else:
            raise ValueError(f"no type of RESP3: {kind}")
        at = after
