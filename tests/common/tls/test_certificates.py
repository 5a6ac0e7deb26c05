"""Files of certificates that are replaced while a process runs: when new ones count, and when the old ones stay."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from milena_common.api.errors import ConfigError
from milena_common.tls.certificates import Certificates
from milena_common.tls.settings import TlsFiles
from tests.support.certificates import Authority, write_files


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> TlsFiles:
    return write_files(tmp_path, authority.pem, authority.issue(), client_auth="required")


def look_twice(certificates: Certificates) -> None:
    if certificates.look():
        assert not certificates.look()


def test_new_content_counts_at_the_second_look(authority: Authority, files: TlsFiles, tmp_path: Path) -> None:
    certificates = Certificates(files)
    first = certificates.server_context("resp"), certificates.client_context()
    assert not certificates.look()
    write_files(tmp_path, authority.pem, authority.issue(expires=90))
    assert certificates.look()
    assert certificates.number == 1
    assert not certificates.look()
    assert certificates.number == 2
    assert certificates.server_context("resp") is not first[0]
    assert certificates.client_context() is not first[1]
    assert certificates.reloads == {"ok": 1, "failed": 0}


def test_an_exchanged_link_is_new_content(authority: Authority, tmp_path: Path) -> None:
    """Kubernetes mounts a secret as links into a folder, to which another link points that is exchanged."""
    for name in ("one", "two"):
        write_files(tmp_path, authority.pem, authority.issue(), name)
        for file in (tmp_path / name).iterdir():
            os.utime(file, (1e9, 1e9))
    (tmp_path / "data").symlink_to("one")
    certificates = Certificates(TlsFiles(*(str(tmp_path / "data" / name) for name in ("tls.crt", "tls.key"))))
    before = certificates.material
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").rename(tmp_path / "data")
    look_twice(certificates)
    assert certificates.number == 2
    assert certificates.material != before


def test_a_pair_that_is_replaced_one_file_after_the_other_is_taken_when_it_fits(
    authority: Authority, files: TlsFiles, caplog: pytest.LogCaptureFixture
) -> None:
    certificates = Certificates(files)
    before = certificates.material
    certificate, key = authority.issue()
    Path(files.certificate).write_bytes(certificate)
    for _ in range(5):
        look_twice(certificates)
    assert certificates.material == before
    assert certificates.reloads == {"ok": 0, "failed": 1}
    (logged,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert f"key: {files.key} does not fit the certificate in {files.certificate}" in logged
    Path(files.key).write_bytes(key)
    look_twice(certificates)
    assert certificates.material[:2] == (certificate, key)
    assert certificates.reloads == {"ok": 1, "failed": 1}


@pytest.mark.parametrize("part", [0, 1, 30, -20])
def test_a_file_that_is_written_half_changes_nothing(authority: Authority, files: TlsFiles, part: int) -> None:
    certificates = Certificates(files)
    before = certificates.material
    for name, content in zip((files.certificate, files.key), authority.issue(), strict=True):
        Path(name).write_bytes(content[:part])
        look_twice(certificates)
    Path(files.authorities).write_bytes(authority.pem[:part])
    look_twice(certificates)
    assert certificates.material == before


def test_a_removed_file_changes_nothing(files: TlsFiles) -> None:
    certificates = Certificates(files)
    Path(files.key).unlink()
    look_twice(certificates)
    assert certificates.number == 1
    assert certificates.reloads["failed"] == 1


@pytest.mark.parametrize(("begins", "expires", "reason"), [(-9, -1, "has expired"), (1, 2, "is not valid before")])
def test_dates_that_do_not_hold_are_rejected(
    authority: Authority, files: TlsFiles, tmp_path: Path, begins: float, expires: float, reason: str
) -> None:
    certificates = Certificates(files)
    write_files(tmp_path, authority.pem, authority.issue(begins=begins, expires=expires))
    look_twice(certificates)
    assert certificates.number == 1
    with pytest.raises(ConfigError, match=f"cert: the certificate in .* {reason}"):
        Certificates(files)


def test_files_that_cannot_be_used_are_named_at_the_start(authority: Authority, tmp_path: Path) -> None:
    good = write_files(tmp_path, authority.pem, authority.issue())
    names = ("TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CA_FILE")

    def problem(certificate: str = good.certificate, key: str = good.key, ca: str = good.authorities) -> str:
        with pytest.raises(ConfigError) as rejected:
            Certificates(TlsFiles(certificate, key, ca, variables=names))
        (text,) = rejected.value.problems
        return text

    assert problem(certificate="/none") == "TLS_CERT_FILE: /none cannot be read (No such file or directory)"
    assert problem(certificate=good.key) == f"TLS_CERT_FILE: {good.key} has no certificate in PEM"
    assert problem(key=good.certificate).startswith(f"TLS_KEY_FILE: {good.certificate} is no private key in PEM")
    assert problem(ca=good.key).startswith(f"TLS_CA_FILE: {good.key} has no certificates in PEM")
    key = serialization.load_pem_private_key(Path(good.key).read_bytes(), None)
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    assert problem(key=str(encrypted)) == f"TLS_KEY_FILE: {encrypted} is encrypted; use one without a password"


def test_a_client_looks_at_its_files_only_now_and_then(
    authority: Authority, files: TlsFiles, tmp_path: Path
) -> None:
    certificates = Certificates(files)
    assert certificates.refreshed(3600).number == 1
    write_files(tmp_path, authority.pem, authority.issue())
    assert certificates.refreshed(3600).number == 1
    eager = Certificates(files)
    write_files(tmp_path, authority.pem, authority.issue())
    assert eager.refreshed(0).refreshed(0).number == 2
