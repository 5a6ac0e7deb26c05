"""The dates of a certificate, beside what the cryptography library reads of it."""

from __future__ import annotations

import datetime
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given
from hypothesis import strategies as st

from milena_common.tls.validity import validity
from tests.support.certificates import Authority

KEY = ed25519.Ed25519PrivateKey.generate()
TIMES = st.integers(-630_000_000, 7_258_000_000).map(
    lambda seconds: datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=seconds)
)


@given(TIMES, TIMES, st.integers(1, 2**150))
def test_dates_of_both_forms_are_read(one: datetime.datetime, other: datetime.datetime, number: int) -> None:
    begins, expires = sorted((one, other))
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x" * (number % 60 + 1))])
    made = (
        x509.CertificateBuilder(name, name, KEY.public_key(), number)
        .not_valid_before(begins)
        .not_valid_after(expires)
        .sign(KEY, None)
    )
    found = validity(made.public_bytes(serialization.Encoding.DER))
    assert found == (begins.timestamp(), expires.timestamp())


def test_a_certificate_with_extensions_is_read() -> None:
    pem, _ = Authority().issue(expires=2)
    read = x509.load_pem_x509_certificate(pem)
    assert isinstance(read.signature_hash_algorithm, hashes.SHA256)
    found = validity(ssl.PEM_cert_to_DER_cert(pem.decode()))
    assert found.expires_at == read.not_valid_after_utc.timestamp()


@given(st.binary(max_size=300))
def test_anything_else_is_rejected(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        validity(data)
