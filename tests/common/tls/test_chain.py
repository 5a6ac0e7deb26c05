"""On what the acceptance of a certificate rests: the authority's name and key, and the first date of expiry."""

from __future__ import annotations

import ssl
from pathlib import Path
from time import time

import pytest

from milena_common.network.security import PeerChain
from milena_common.tls.certificates import Certificates
from milena_common.tls.chain import authorities_in, authority_id, chain_of
from tests.support.certificates import Authority, write_files

DAY = 86_400


def der(pem: bytes) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem.decode())


def test_an_authority_keeps_its_identity_when_its_certificate_is_renewed() -> None:
    authority = Authority("one")
    assert authority_id(der(authority.renewed())) == authority_id(der(authority.pem))
    assert der(authority.renewed()) != der(authority.pem)
    assert authority_id(der(Authority("one").pem)) != authority_id(der(authority.pem)), "another key"


def test_all_authorities_of_a_file_are_found_between_other_text() -> None:
    one, two = Authority("one"), Authority("two")
    text = b"# \xff one\n" + one.pem + b"two:\r\n" + two.pem.replace(b"\n", b"\r\n")
    assert authorities_in(text) == {authority_id(der(one.pem)), authority_id(der(two.pem))}
    assert authorities_in(b"") == frozenset()


@pytest.mark.parametrize("size", [0, 1, 40, 200])
def test_a_truncated_certificate_is_rejected(size: int) -> None:
    with pytest.raises(ValueError, match="certificate"):
        authority_id(der(Authority().pem)[:size])


def test_a_chain_expires_with_its_first_certificate() -> None:
    authority = Authority()
    leaf = der(authority.issue(expires=3)[0])
    assert chain_of([]) is None
    chain = chain_of([leaf, der(authority.pem)])
    assert chain is not None
    assert chain.authority == authority_id(der(authority.pem))
    assert chain.expires_at == pytest.approx(time() + 3 * DAY, abs=60)


def test_a_chain_is_accepted_while_its_authority_is_trusted_and_nothing_in_it_has_expired(tmp_path: Path) -> None:
    mine, removed = Authority("mine"), Authority("removed")
    now = [time()]
    files = write_files(tmp_path, mine.pem + removed.pem, mine.issue(), client_auth="required")
    certificates = Certificates(files, lambda: now[0])
    chain = PeerChain(authority_id(der(removed.pem)), now[0] + DAY)
    assert certificates.accepts(chain)
    write_files(tmp_path, mine.renewed() + removed.renewed(), mine.issue())
    while certificates.look():
        pass
    assert certificates.accepts(chain)
    write_files(tmp_path, mine.pem, mine.issue())
    while certificates.look():
        pass
    assert not certificates.accepts(chain)
    chain = PeerChain(authority_id(der(mine.pem)), now[0] + DAY)
    assert certificates.accepts(chain)
    now[0] += DAY + 1
    assert not certificates.accepts(chain)
