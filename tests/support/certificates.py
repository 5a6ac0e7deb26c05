"""Shell. A certificate authority for tests, and certificates in all the states in which they are met."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from milena_common.tls.settings import TlsFiles

_PEM = serialization.Encoding.PEM
_DAY = datetime.timedelta(days=1)
# The name in the certificates of routers and nodes.
CLUSTER = "milena"


class Authority:
    """An authority called `name`; its certificate is in `pem`."""

    def __init__(self, name: str = "test authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key_id = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        self.pem = self.renewed()

    def renewed(self) -> bytes:
        """Return another certificate for the same name and key, in PEM."""
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 30 * _DAY)
            .not_valid_after(now + 300 * _DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(self._key_id, critical=False)
            .add_extension(x509.KeyUsage(True, False, False, False, False, True, True, False, False), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(_PEM)

    def issue(
        self,
        name: str = CLUSTER,
        *,
        hosts: Sequence[str] = ("127.0.0.1", "localhost"),
        uris: Sequence[str] = (),
        begins: float = -1,
        expires: float = 60,
    ) -> tuple[bytes, bytes]:
        """Return a certificate and its key in PEM; `begins` and `expires` are days from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        names: list[x509.GeneralName] = [_general_name(host) for host in hosts]
        names += [x509.UniformResourceIdentifier(uri) for uri in uris]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins * _DAY)
            .not_valid_after(now + expires * _DAY)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._key_id), critical=False
            )
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(_PEM), key.private_bytes(
            _PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def tls_variables(files: TlsFiles) -> dict[str, str]:
    """Return the variables of a router or node for `files`: TLS alone, certificates of both sides.

    Those of routers and nodes have the name CLUSTER, and of clients another one.
    """
    return {
        "TLS": "on",
        "TLS_CERT_FILE": files.certificate,
        "TLS_KEY_FILE": files.key,
        "TLS_CA_FILE": files.authorities,
        "TLS_CLIENT_AUTH": "required",
        "CLUSTER_CERT_NAMES": CLUSTER,
        "TLS_RELOAD_SECONDS": "0.1",
    }


def client_url(address: str, files: TlsFiles, more: str = "") -> str:
    """Return the URL of a client with TLS; `files` without a certificate for one that shows none."""
    shown = f"&cert={files.certificate}&key={files.key}" if files.certificate else ""
    return f"milenas://{address}?ca={files.authorities}{shown}{more}"


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def write_files(
    folder: Path, authorities: bytes, pair: tuple[bytes, bytes] | None, name: str = "tls", **settings: str
) -> TlsFiles:
    """Write the files of one side into `folder`, named as cert-manager names them, and return their settings."""
    target = folder / name
    target.mkdir(exist_ok=True)
    (target / "ca.crt").write_bytes(authorities)
    if pair is not None:
        (target / "tls.crt").write_bytes(pair[0])
        (target / "tls.key").write_bytes(pair[1])
    return TlsFiles(
        str(target / "tls.crt") if pair else "",
        str(target / "tls.key") if pair else "",
        str(target / "ca.crt"),
        **settings,  # type: ignore[arg-type]
    )


def make_certificates(folder: Path) -> None:
    """Write `ca.pem`, and `server.pem`, `server.key`, `client.pem` and `client.key` that it has signed."""
    authority = Authority()
    (folder / "ca.pem").write_bytes(authority.pem)
    for name in ("server", "client"):
        certificate, key = authority.issue(name)
        (folder / f"{name}.pem").write_bytes(certificate)
        (folder / f"{name}.key").write_bytes(key)
