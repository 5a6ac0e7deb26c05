"""Pure. Commands on whole values and parts of them: GET, SET, APPEND, SETRANGE, MSETNX and their relatives."""

from __future__ import annotations

from milena_cache.servers.resp.decisions.set_options import getex_options, msetex_options, set_options
from milena_cache.servers.resp.decisions.timestamps import LATEST_MS, expiry_in_ms
from milena_cache.servers.resp.decisions.values import TOO_LONG, Decision, Values
from milena_common.api.byte_range import ByteRange
from milena_common.resp.encoding import OK, Raw
from milena_common.resp.redis_replies import CommandError, integer, wrong_arity


def get(values: Values, argv: list[bytes]) -> bytes | None:
    return values.value_of(argv[1])


def mget(values: Values, argv: list[bytes]) -> list[bytes | None]:
    return [values.value_of(key) for key in argv[1:]]


def strlen(values: Values, argv: list[bytes]) -> int:
    return len(values.value_of(argv[1]) or b"")


def part_of(size: int, start: int, end: int) -> ByteRange:
    """Return the bytes from `start` to `end`, both included, of a value of `size` bytes; of length 0 for none.

    Negative positions count from the end of the value.
    """
    if start < 0 and end < 0 and start > end:
        return ByteRange(0, 0)
    start = max(0, start + size if start < 0 else start)
    end = min(size - 1, max(0, end + size if end < 0 else end))
    return ByteRange(start, end - start + 1) if start <= end else ByteRange(0, 0)


def getrange(values: Values, argv: list[bytes]) -> bytes:
    start, end = integer(argv[2]), integer(argv[3])
    data = values.value_of(argv[1]) or b""
    part = part_of(len(data), start, end)
    return data[part.offset : part.offset + part.length] if part.length else b""


def set_(values: Values, argv: list[bytes]) -> bytes | Raw | None:
    """Carry out a SET; its options about durability are not for here."""
    options = set_options(argv)
    expires_ms = options.expires_ms("set", values.now_ms) if options.expiry_option else 0
    key = argv[1]
    before = values.value_of(key) if options.depends else None
    if options.allow(before):
        values.assign(key, argv[2], values.expires_ms(key) if options.keep_ttl else min(expires_ms, LATEST_MS))
        return before if options.get else Raw(OK)
    return before if options.get else None


def setex_as(name: str, *, seconds: bool) -> Decision:
    """Return the decision of SETEX or PSETEX."""

    def setex(values: Values, argv: list[bytes]) -> Raw:
        expires_ms = expiry_in_ms(argv[2], name, values.now_ms, seconds=seconds, absolute=False, positive=True)
        values.assign(argv[1], argv[3], min(expires_ms, LATEST_MS))
        return Raw(OK)

    return setex


def setnx(values: Values, argv: list[bytes]) -> int:
    if values.value_of(argv[1]) is not None:
        return 0
    values.assign(argv[1], argv[2])
    return 1


def getset(values: Values, argv: list[bytes]) -> bytes | None:
    before = values.value_of(argv[1])
    values.assign(argv[1], argv[2])
    return before


def getdel(values: Values, argv: list[bytes]) -> bytes | None:
    before = values.value_of(argv[1])
    values.delete(argv[1])
    return before


def getex(values: Values, argv: list[bytes]) -> bytes | None:
    options = getex_options(argv)
    key = argv[1]
    before = values.value_of(key)
    if before is None:
        return None
    if options.expiry_option:
        values.expire(key, min(options.expires_ms("getex", values.now_ms), LATEST_MS))
    elif options.persist and values.expires_ms(key):
        values.expire(key, 0)
    return before


def append(values: Values, argv: list[bytes]) -> int:
    data = (values.value_of(argv[1]) or b"") + argv[2]
    values.update(argv[1], data)
    return len(data)


def setrange(values: Values, argv: list[bytes]) -> int:
    offset = integer(argv[2])
    if offset < 0:
        raise CommandError("ERR offset is out of range")
    part = argv[3]
    data = values.value_of(argv[1]) or b""
    if not part:
        return len(data)
    if offset + len(part) > values.max_bytes:
        raise CommandError(TOO_LONG)
    changed = data[:offset].ljust(offset, b"\0") + part + data[offset + len(part) :]
    values.update(argv[1], changed)
    return len(changed)


def mset(values: Values, argv: list[bytes]) -> Raw:
    _put_all(values, argv)
    return Raw(OK)


def msetnx(values: Values, argv: list[bytes]) -> int:
    if len(argv) % 2 == 0:
        raise wrong_arity(argv[0].decode().lower())
    if any(values.value_of(key) is not None for key in argv[1::2]):
        return 0
    _put_all(values, argv)
    return 1


def msetex(values: Values, argv: list[bytes]) -> int:
    end, options = msetex_options(argv)
    expires_ms = options.expires_ms("msetex", values.now_ms) if options.expiry_option else 0
    keys = argv[2:end:2]
    if options.conditional and not all(options.allow(values.value_of(key)) for key in keys):
        return 0
    for key, data in zip(keys, argv[3:end:2], strict=True):
        values.assign(key, data, values.expires_ms(key) if options.keep_ttl else min(expires_ms, LATEST_MS))
    return 1


def _put_all(values: Values, argv: list[bytes]) -> None:
    if len(argv) % 2 == 0:
        raise wrong_arity(argv[0].decode().lower())
    for key, data in zip(argv[1::2], argv[2::2], strict=True):
        values.assign(key, data)
