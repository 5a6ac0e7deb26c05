"""Pure. Verifies a body by the digests that its request names: Content-MD5, x-amz-checksum-…, x-amz-content-sha256.

A request need not name any. All that it names are verified, those in trailers too.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Mapping
from typing import Final

import anycrc

from milena_common.s3.wire.errors import S3Error

PREFIX: Final = "x-amz-checksum-"
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
# The length of each digest in bytes.
LENGTHS: Final[Mapping[str, int]] = {"crc32": 4, "crc32c": 4, "crc64nvme": 8, "sha1": 20, "sha256": 32}

_CRC32C: Final = anycrc.Model("CRC32-ISCSI")
_CRC64NVME: Final = anycrc.Model("CRC64-NVME")

_DIGESTS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "crc32": lambda body: zlib.crc32(body).to_bytes(4),
    "crc32c": lambda body: int(_CRC32C.calc(body)).to_bytes(4),
    "crc64nvme": lambda body: int(_CRC64NVME.calc(body)).to_bytes(8),
    "sha1": lambda body: hashlib.sha1(body, usedforsecurity=False).digest(),
    "sha256": lambda body: hashlib.sha256(body).digest(),
}


def digest_of(algorithm: str, body: bytes) -> str:
    """Return the digest of a body by one of the algorithms of LENGTHS, in base64."""
    return b64encode(_DIGESTS[algorithm](body)).decode()


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
    announced = [name.strip().lower() for name in headers.get("x-amz-trailer", "").split(",") if name.strip()]
    for name in announced:
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in found:
            raise S3Error("InvalidRequest", f"The trailer {name} that x-amz-trailer announces is missing")
    return found


def verify(body: bytes, headers: Mapping[str, str], trailers: Mapping[str, str], payload: str) -> dict[str, str]:
    """Return the checksums that the request names, by algorithm. Raises S3Error if one is not that of the body.

    `payload`: the body's SHA-256 as signed, or what is in its place.
    """
    if _SHA256.fullmatch(payload) and hashlib.sha256(body).hexdigest() != payload:
        raise S3Error(
            "XAmzContentSHA256Mismatch",
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
        )
    md5 = headers.get("content-md5")
    if md5 is not None:
        if _length(md5) != 16:
            raise S3Error("InvalidDigest", "The Content-MD5 you specified was invalid.")
        if b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode() != md5:
            raise S3Error("BadDigest", "The Content-MD5 you specified did not match what we received.")
    checksums = named_checksums(headers, trailers)
    for algorithm, value in checksums.items():
        if digest_of(algorithm, body) != value:
            raise S3Error(
                "BadDigest", f"The {algorithm.upper()} you specified did not match the calculated checksum."
            )
    return checksums


def _length(text: str) -> int:
    """Return the number of bytes in a base64 text, -1 if it is none."""
    try:
        return len(b64decode(text, validate=True))
    except (Base64Error, ValueError):
        return -1
