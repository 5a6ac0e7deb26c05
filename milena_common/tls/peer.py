"""Pure. The names in the verified certificate of a connection's other side: who is asking, for access control."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """The names of a verified certificate, as it has them.

    - `uris`, `dns_names`: the alternative names of the subject (SAN).
    - `common_name`: of the subject, "" if it has none.
    """

    uris: tuple[str, ...] = ()
    dns_names: tuple[str, ...] = ()
    common_name: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The names by which a user is looked up, in this order."""
        return (*self.uris, *self.dns_names, *((self.common_name,) if self.common_name else ()))


def of_transport(certificate: Mapping[str, Any] | None) -> PeerCertificate | None:
    """Return the names in a transport's "peercert", as the `ssl` module has it; None if the peer showed none."""
    if not certificate:
        return None
    names: Sequence[tuple[str, str]] = certificate.get("subjectAltName", ())
    subject = (part for parts in certificate.get("subject", ()) for part in parts)
    return PeerCertificate(
        tuple(value for kind, value in names if kind == "URI"),
        tuple(value for kind, value in names if kind == "DNS"),
        next((value for kind, value in subject if kind == "commonName"), ""),
    )


def of_grpc(context: Mapping[str, Iterable[bytes]]) -> PeerCertificate | None:
    """Return the names in a call's authentication context of gRPC; None if the peer showed no certificate."""
    if not context.get("x509_pem_cert"):
        return None

    def texts(name: str) -> tuple[str, ...]:
        return tuple(value.decode(errors="replace") for value in context.get(name, ()))

    return PeerCertificate(texts("peer_uri"), texts("peer_dns"), next(iter(texts("x509_common_name")), ""))
