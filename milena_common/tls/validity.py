"""Pure. From when to when a certificate is valid, and whose it is, read from its DER encoding.

The standard library shows that only of the other side's certificate, in a connection.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

_SEQUENCE, _INTEGER, _VERSION, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0x02, 0xA0, 0x17, 0x18


class Validity(NamedTuple):
    """The first and the last second of a certificate, since 1970."""

    begins_at: float
    expires_at: float


def validity(der: bytes) -> Validity:
    """Return the validity of a certificate (X.509, DER). Raises ValueError if it is none."""
    times, _ = _element(_from_validity(der), _SEQUENCE)
    begins_at, times = _time(times)
    return Validity(begins_at, _time(times)[0])


def identity_of(der: bytes) -> bytes:
    """Return subject and public key of a certificate, as they are encoded. Raises ValueError if it is none."""
    rest = _element(_from_validity(der), _SEQUENCE)[1]
    after_key = _element(_element(rest, _SEQUENCE)[1], _SEQUENCE)[1]
    return rest[: len(rest) - len(after_key)]


def _from_validity(der: bytes) -> bytes:
    """Return a certificate's elements from its validity on: that, the subject, the key, and what follows."""
    certificate, _ = _element(der, _SEQUENCE)
    body, _ = _element(certificate, _SEQUENCE)
    if body[:1] == bytes([_VERSION]):
        body = _element(body, _VERSION)[1]
    for tag in (_INTEGER, _SEQUENCE, _SEQUENCE):  # number, algorithm, issuer
        body = _element(body, tag)[1]
    return body


def _element(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """Return the content of the first element of `data`, which must have `tag`, and what follows it."""
    if len(data) < 2 or data[0] != tag:
        raise ValueError("is no certificate")
    size, start = data[1], 2
    if size & 0x80:
        start = 2 + (size & 0x7F)
        size = int.from_bytes(data[2:start], "big")
    if len(data) < start + size:
        raise ValueError("is a truncated certificate")
    return data[start : start + size], data[start + size :]


def _time(data: bytes) -> tuple[float, bytes]:
    if data[:1] == bytes([_UTC_TIME]):
        content, rest = _element(data, _UTC_TIME)
        # RFC 5280: two digits from 50 on are in the 20th century.
        content = (b"19" if content[:1] >= b"5" else b"20") + content
    else:
        content, rest = _element(data, _GENERALIZED_TIME)
    return datetime.strptime(content.decode("ascii"), "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp(), rest
