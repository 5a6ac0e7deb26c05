"""Pure. On which authority a verified certificate rests, and until when, read from the DER encoding of its chain.

A connection is verified once, in its handshake. What it was accepted for is kept with it, so that it can be ended
when its authority is not trusted any more, or its certificate has expired.
"""

from __future__ import annotations

import _ssl
import re
from base64 import b64decode
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from milena_common.network.security import PeerChain
from milena_common.tls.validity import identity_of, validity

_CERTIFICATE = re.compile(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END ")


def authorities_in(pem: bytes) -> frozenset[bytes]:
    """Return what identifies each certificate of a file in PEM. Raises ValueError if one is invalid."""
    return frozenset(authority_id(b64decode(found)) for found in _CERTIFICATE.findall(pem))


def authority_id(der: bytes) -> bytes:
    """Return what identifies an authority: its name and key, which stay when its certificate is renewed.

    Raises ValueError if `der` is no certificate.
    """
    return sha256(identity_of(der)).digest()


def peer_chain(ssl_object: Any) -> PeerChain | None:
    """Return the verified chain of a connection's other side; None if it has shown no certificate.

    `ssl_object`: that of a transport, of the standard library or of aiofastnet.
    """
    if ssl_object is None:
        return None
    # Public for the standard library's own objects from Python 3.13 on.
    methods = ssl_object if hasattr(ssl_object, "get_verified_chain") else ssl_object._sslobj
    return chain_of([_der(each) for each in methods.get_verified_chain() or ()])


def chain_of(certificates: Sequence[bytes]) -> PeerChain | None:
    """Return the same of certificates in DER, that of the other side first; None if there are none."""
    if not certificates:
        return None
    return PeerChain(authority_id(certificates[-1]), min(validity(each).expires_at for each in certificates))


def _der(certificate: Any) -> bytes:
    return certificate if isinstance(certificate, bytes) else certificate.public_bytes(_ssl.ENCODING_DER)
