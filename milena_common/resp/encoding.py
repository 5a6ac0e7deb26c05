"""Pure. Encodes the replies of a server of the Redis protocol: RESP2, and RESP3 where a connection requested it.

Replies are Python values: None, bool, int, float, bytes and str (bulk strings), list and tuple, dict, set; and the
classes here for types without such a counterpart. Source: the protocol specification of Redis, "RESP protocol
spec".
"""

from __future__ import annotations

from typing import Any, Final

from milena_common.build import interpreted

RESP2: Final = 2
RESP3: Final = 3

OK: Final = b"+OK\r\n"
QUEUED: Final = b"+QUEUED\r\n"
_NULL_BULK = b"$-1\r\n"


@interpreted
class Simple(str):
    """A simple string: a text without line ends, like OK."""

    __slots__ = ()


@interpreted
class Verbatim(str):
    """A verbatim string, a text for people; a bulk string in RESP2."""

    __slots__ = ()


@interpreted
class Error(str):
    """An error inside a reply; its first word is the code word."""

    __slots__ = ()


@interpreted
class Raw(bytes):
    """A reply that is already encoded."""

    __slots__ = ()


@interpreted
class Pieces(tuple[bytes, ...]):
    """A reply that is already encoded, in pieces that are written without being joined."""

    __slots__ = ()


class NullArray:
    """The null in place of an array, in RESP2; RESP3 has one null for all types."""

    __slots__ = ()


def bulk(value: bytes) -> bytes:
    """Return `value` as a bulk string."""
    return b"$%d\r\n%b\r\n" % (len(value), value)


def null(protocol: int) -> bytes:
    return _NULL_BULK if protocol == RESP2 else b"_\r\n"


def error_line(text: str) -> bytes:
    """Return an error; `text` begins with its code word.

    Its line breaks, which would end the reply, are replaced.
    """
    return b"-%b\r\n" % text.replace("\r", " ").replace("\n", " ").encode(errors="replace")


def push(kind: bytes, *elements: bytes) -> bytes:
    """Return an out-of-band message (RESP3); `elements` are already encoded."""
    return b">%d\r\n%b%b" % (1 + len(elements), bulk(kind), b"".join(elements))


def command(*arguments: bytes) -> bytes:
    """Return a command as a client sends it: an array of bulk strings."""
    return b"*%d\r\n%b" % (len(arguments), b"".join([b"$%d\r\n%b\r\n" % (len(each), each) for each in arguments]))


def encode(value: Any, protocol: int) -> bytes:
    """Return `value` as a reply. Raises TypeError for a type that has no encoding."""
    if isinstance(value, bytes):
        return value if isinstance(value, Raw) else bulk(value)
    parts: list[bytes] = []
    _encode(value, protocol == RESP3, parts)
    return b"".join(parts)


def _encode(value: Any, resp3: bool, parts: list[bytes]) -> None:
    match value:
        case None:
            parts.append(b"_\r\n" if resp3 else _NULL_BULK)
        case bool():
            parts.append((b"#t\r\n" if value else b"#f\r\n") if resp3 else b":%d\r\n" % value)
        case int():
            parts.append(b":%d\r\n" % value)
        case float():
            text = _number(value)
            parts.append(b",%b\r\n" % text if resp3 else bulk(text))
        case Raw():
            parts.append(value)
        case bytes():
            parts.append(bulk(value))
        case Simple():
            parts.append(b"+%b\r\n" % value.encode())
        case Error():
            parts.append(error_line(value))
        case Verbatim():
            text = value.encode()
            parts.append(b"=%d\r\ntxt:%b\r\n" % (len(text) + 4, text) if resp3 else bulk(text))
        case str():
            parts.append(bulk(value.encode()))
        case NullArray():
            parts.append(b"_\r\n" if resp3 else b"*-1\r\n")
        case dict():
            parts.append(b"%%%d\r\n" % len(value) if resp3 else b"*%d\r\n" % (2 * len(value)))
            for key, item in value.items():
                _encode(key, resp3, parts)
                _encode(item, resp3, parts)
        case set() | frozenset():
            parts.append(b"%b%d\r\n" % (b"~" if resp3 else b"*", len(value)))
            for item in sorted(value):
                _encode(item, resp3, parts)
        case list() | tuple():
            parts.append(b"*%d\r\n" % len(value))
            for item in value:
                _encode(item, resp3, parts)
        case _:
            raise TypeError(f"no reply type: {type(value).__name__}")


def _number(value: float) -> bytes:
    if value != value:
        return b"nan"
    if value in (float("inf"), float("-inf")):
        return b"inf" if value > 0 else b"-inf"
    return b"%d" % value if value == int(value) else repr(value).encode()
