"""Pure. Verifies a body by the digests that its request names: Content-MD5, x-amz-checksum-…, x-amz-content-sha256.

A request need not name any. All that it names are verified, those in trailers too. A body may come in parts
(`Digests`), of which none is kept.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Mapping
from typing import Any, Final

import anycrc

from milena_common.s3.wire.errors import S3Error

PREFIX: Final = "x-amz-checksum-"
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
# The length of each digest in bytes.
LENGTHS: Final[Mapping[str, int]] = {"crc32": 4, "crc32c": 4, "crc64nvme": 8, "sha1": 20, "sha256": 32}

_CRC32C: Final = anycrc.Model("CRC32-ISCSI")
_CRC64NVME: Final = anycrc.Model("CRC64-NVME")


class _Crc:
    """A cyclic redundancy check, as a digest of `hashlib`. `calculate`: of bytes, and the value before them."""

    def __init__(self, length: int, calculate: Callable[[bytes, Any], int]) -> None:
        self._length = length
        self._calculate = calculate
        self._value: int | None = None
        self.update = self._feed

    def _feed(self, data: bytes) -> None:
        self._value = int(self._calculate(data, self._value))

    def digest(self) -> bytes:
        return (self._value or 0).to_bytes(self._length)


_RUNNING: Final[Mapping[str, Callable[[], Any]]] = {
    "crc32": lambda: _Crc(4, lambda data, before: zlib.crc32(data, before or 0)),
    "crc32c": lambda: _Crc(4, _CRC32C.calc),
    "crc64nvme": lambda: _Crc(8, _CRC64NVME.calc),
    "md5": lambda: hashlib.md5(usedforsecurity=False),
    "sha1": lambda: hashlib.sha1(usedforsecurity=False),
    "sha256": hashlib.sha256,
}


def digest_of(algorithm: str, body: bytes) -> str:
    """Return the digest of a body by one of the algorithms of LENGTHS, in base64."""
    running = _RUNNING[algorithm]()
    running.update(body)
    return b64encode(running.digest()).decode()


def named_checksums(headers: Mapping[str, str], trailers: Mapping[str, str]) -> dict[str, str]:
    """Return the x-amz-checksum-… of a request by algorithm. Raises S3Error for one that is malformed."""
    found: dict[str, str] = {}
    for source in (headers, trailers):
        for name, value in source.items():
            algorithm = name.removeprefix(PREFIX)
            if name.startswith(PREFIX) and algorithm not in ("algorithm", "type", "mode"):
                if algorithm not in LENGTHS or _length(value) != LENGTHS[algorithm]:
                    raise S3Error("InvalidRequest", f"Value for {name} header is invalid.")
                found[algorithm] = value
    for algorithm in _announced(headers):
        if algorithm not in found:
            raise S3Error(
                "InvalidRequest", f"The trailer {PREFIX}{algorithm} that x-amz-trailer announces is missing"
            )
    return found


def _announced(headers: Mapping[str, str]) -> list[str]:
    """Return the algorithms of the checksums that come in trailers."""
    names = [name.strip().lower() for name in headers.get("x-amz-trailer", "").split(",")]
    return [name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX)]


class Digests:
    """The digests of a body that comes in parts: those that its request names, and the MD5 if `with_md5`.

    Raises S3Error for a digest of the request that is malformed.
    """

    def __init__(self, headers: Mapping[str, str], payload: str, *, with_md5: bool = False) -> None:
        self._headers = headers
        self._payload = payload if _SHA256.fullmatch(payload) else ""
        self._md5 = headers.get("content-md5")
        if self._md5 is not None and _length(self._md5) != 16:
            raise S3Error("InvalidDigest", "The Content-MD5 you specified was invalid.")
        without_trailers = {name: value for name, value in headers.items() if name != "x-amz-trailer"}
        algorithms = {*named_checksums(without_trailers, {}), *_announced(headers)}
        if unknown := algorithms - LENGTHS.keys():
            raise S3Error("InvalidRequest", f"The algorithm {min(unknown)} that x-amz-trailer names is not known")
        if self._payload:
            algorithms.add("sha256")
        if self._md5 is not None or with_md5:
            algorithms.add("md5")
        self._running = {algorithm: _RUNNING[algorithm]() for algorithm in algorithms}

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        for each in self._running.values():
            each.update(data)

    @property
    def md5(self) -> str:
        """Return the MD5 of what has come, in hexadecimal digits; only if `with_md5`."""
        return str(self._running["md5"].hexdigest())

    def verify(self, trailers: Mapping[str, str]) -> dict[str, str]:
        """Return the checksums that the request names, by algorithm. Raises S3Error for one that is wrong."""
        if self._payload and self._running["sha256"].hexdigest() != self._payload:
            raise S3Error(
                "XAmzContentSHA256Mismatch",
                "The provided 'x-amz-content-sha256' header does not match what was computed.",
            )
        if self._md5 is not None and b64encode(self._running["md5"].digest()).decode() != self._md5:
            raise S3Error("BadDigest", "The Content-MD5 you specified did not match what we received.")
        checksums = named_checksums(self._headers, trailers)
        for algorithm, value in checksums.items():
            if algorithm not in self._running:
                raise S3Error("InvalidRequest", f"The trailer {PREFIX}{algorithm} is not named in x-amz-trailer")
            if b64encode(self._running[algorithm].digest()).decode() != value:
                raise S3Error(
                    "BadDigest", f"The {algorithm.upper()} you specified did not match the calculated checksum."
                )
        return checksums


def verify(body: bytes, headers: Mapping[str, str], trailers: Mapping[str, str], payload: str) -> dict[str, str]:
    """Return the checksums that the request names, by algorithm. Raises S3Error if one is not that of the body.

    `payload`: the body's SHA-256 as signed, or what is in its place.
    """
    announced = {"x-amz-trailer": ",".join((headers.get("x-amz-trailer", ""), *trailers))} if trailers else {}
    digests = Digests({**headers, **announced}, payload)
    digests.feed(body)
    return digests.verify(trailers)


def _length(text: str) -> int:
    """Return the number of bytes in a base64 text, -1 if it is none."""
    try:
        return len(b64decode(text, validate=True))
    except (Base64Error, ValueError):
        return -1
