"""Every digest that a request names is compared with its body."""

from __future__ import annotations

import pytest

from milena_common.s3.body.checksums import LENGTHS, digest_of, named_checksums, verify
from milena_common.s3.wire.errors import S3Error

BODY = b"123456789"
# The check values of the algorithms' definitions.
KNOWN = {
    "crc32": "y/Q5Jg==",
    "crc32c": "4waSgw==",
    "crc64nvme": "rosUhgp5mIg=",
}
MD5 = "JfnnlDI7RTiF9RgfG2JNCw=="


@pytest.mark.parametrize("algorithm", KNOWN)
def test_the_check_values_of_the_definitions(algorithm: str) -> None:
    assert digest_of(algorithm, BODY) == KNOWN[algorithm]


@pytest.mark.parametrize("algorithm", LENGTHS)
@pytest.mark.parametrize("as_trailer", [False, True])
def test_a_checksum_is_verified_and_returned(algorithm: str, as_trailer: bool) -> None:
    name, right = f"x-amz-checksum-{algorithm}", digest_of(algorithm, BODY)
    wrong = digest_of(algorithm, b"other")

    def check(value: str) -> dict[str, str]:
        named = {name: value}
        return verify(BODY, {"x-amz-trailer": name} if as_trailer else named, named if as_trailer else {}, "")

    assert check(right) == {algorithm: right}
    with pytest.raises(S3Error) as error:
        check(wrong)
    assert error.value.code == "BadDigest"
    with pytest.raises(S3Error) as error:
        check("AAA")
    assert error.value.code == "InvalidRequest"


def test_an_announced_trailer_must_come() -> None:
    with pytest.raises(S3Error) as error:
        named_checksums({"x-amz-trailer": "x-amz-checksum-crc32"}, {})
    assert error.value.code == "InvalidRequest"


def test_md5_and_the_signed_digest() -> None:
    assert verify(BODY, {"content-md5": MD5}, {}, "UNSIGNED-PAYLOAD") == {}
    for headers, payload, code in (
        ({"content-md5": MD5}, "0" * 64, "XAmzContentSHA256Mismatch"),
        ({"content-md5": "x"}, "", "InvalidDigest"),
        ({"content-md5": digest_of("crc32", BODY)}, "", "InvalidDigest"),
        ({"content-md5": "AAAAAAAAAAAAAAAAAAAAAA=="}, "", "BadDigest"),
    ):
        with pytest.raises(S3Error) as error:
            verify(BODY, headers, {}, payload)
        assert error.value.code == code
