"""Pure. Keys irrespective of their values: DEL, EXISTS, RENAME, COPY, TYPE."""

from __future__ import annotations

from milena_cache.servers.resp.decisions.values import Values
from milena_common.resp.encoding import OK, Raw, Simple
from milena_common.resp.redis_replies import SYNTAX, CommandError, integer

# Longest value, in bytes, that Redis encodes as embstr, and longest text of a 64-bit integer.
_EMBEDDED = 44
_MAX_DIGITS = 20


def delete(values: Values, argv: list[bytes]) -> int:
    # Keys that do not exist are deleted too: their absence may have been found some seconds ago, and S3 may have
    # the object by now.
    return sum(values.delete(key, surely=True) for key in dict.fromkeys(argv[1:]))


def exists(values: Values, argv: list[bytes]) -> int:
    return sum(values.value_of(key) is not None for key in argv[1:])


def type_of(values: Values, argv: list[bytes]) -> Simple:
    return Simple("none" if values.value_of(argv[1]) is None else "string")


def _move(values: Values, source: bytes, destination: bytes) -> None:
    data = values.value_of(source)
    assert data is not None
    values.assign(destination, data, values.expires_ms(source))


def _check_source(values: Values, key: bytes) -> None:
    if values.value_of(key) is None:
        raise CommandError("ERR no such key")


def rename(values: Values, argv: list[bytes]) -> Raw:
    _, source, destination = argv
    _check_source(values, source)
    if source != destination:
        _move(values, source, destination)
        values.delete(source)
    return Raw(OK)


def renamenx(values: Values, argv: list[bytes]) -> int:
    _, source, destination = argv
    _check_source(values, source)
    if values.value_of(destination) is not None:
        return 0
    _move(values, source, destination)
    values.delete(source)
    return 1


def copy(values: Values, argv: list[bytes]) -> int:
    replace = False
    at = 3
    while at < len(argv):
        option = argv[at].upper()
        if option == b"REPLACE":
            replace = True
        elif option == b"DB" and at + 1 < len(argv):
            if integer(argv[at + 1]) != 0:
                raise CommandError("ERR DB index is out of range")
            at += 1
        else:
            raise CommandError(SYNTAX)
        at += 1
    source, destination = argv[1:3]
    if source == destination:
        raise CommandError("ERR source and destination objects are the same")
    if values.value_of(source) is None or (values.value_of(destination) is not None and not replace):
        return 0
    _move(values, source, destination)
    return 1


def encoding(values: Values, argv: list[bytes]) -> bytes | None:
    data = values.value_of(argv[2])
    return None if data is None else encoded_as(data)


def encoded_as(value: bytes) -> bytes:
    """Return b"int" for a 64-bit integer, b"embstr" for another short value, else b"raw"."""
    if len(value) <= _MAX_DIGITS:
        try:
            integer(value)
        except CommandError:
            pass
        else:
            return b"int"
    return b"embstr" if len(value) <= _EMBEDDED else b"raw"


def delex(values: Values, argv: list[bytes]) -> int:
    """Delete a key, on the condition that its value is (IFEQ) or is not (IFNE) the given one."""
    key = argv[1]
    if len(argv) == 2:
        return int(values.delete(key, surely=True))
    option = argv[2].upper()
    if len(argv) != 4 or option not in (b"IFEQ", b"IFNE"):
        raise CommandError(SYNTAX)
    data = values.value_of(key)
    if data is None or (data == argv[3]) is not (option == b"IFEQ"):
        return 0
    return int(values.delete(key))
