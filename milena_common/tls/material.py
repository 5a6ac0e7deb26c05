"""Shell. Reads the files of TLS, and makes the contexts of them in which connections are made and accepted.

Reading and checking are one step: a certificate, a key and authorities that belong together, or an error. The
library takes certificate and key from files only, and the files may be replaced between two reads, so the contexts
are made first, and count only if the files are the same after that.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NamedTuple

from milena_common.tls.chain import authorities_in
from milena_common.tls.settings import TlsFiles
from milena_common.tls.validity import Validity, validity

# A file of these is some kilobytes; a bundle of all public authorities has 250.
MAX_FILE_BYTES = 4 * 2**20
# Only these for TLS 1.2: forward secrecy, and authenticated encryption. All of TLS 1.3's are both.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
# The library can set one curve or all that it has, some of which are not recommended. Every client has this one.
CURVE = "prime256v1"


class CertificateProblem(Exception):
    """Files cannot be used: the text begins with the setting or variable and says why."""


class FilesReplaced(Exception):
    """The files were replaced while they were read."""


class OtherKey(CertificateProblem):
    """The key is not that of the certificate; one of the two may be just about to be replaced too."""


class Material(NamedTuple):
    """The contents of the files, in PEM; b"" where there is none."""

    certificate: bytes
    key: bytes
    authorities: bytes


class Contexts(NamedTuple):
    """What connections are made with.

    server: for accepting them; None without a certificate
    health: the same, where a client's certificate is not demanded, but verified if there is one
    client: for opening them
    validity: of the certificate; None without one
    authorities: what identifies those by which clients are verified
    """

    server: ssl.SSLContext | None
    health: ssl.SSLContext | None
    client: ssl.SSLContext
    validity: Validity | None
    authorities: frozenset[bytes]


def read_files(files: TlsFiles) -> Material:
    """Return the contents of the files. Raises CertificateProblem."""
    names = (files.certificate, files.key, files.authorities)
    return Material(*(_contents(name, variable) for name, variable in zip(names, files.variables, strict=True)))


def make_contexts(files: TlsFiles, material: Material) -> Contexts:
    """Return the contexts for `material`, which was just read from `files`.

    Raises CertificateProblem if it cannot be used, FilesReplaced if the files have something else already.
    """
    certificate_name, key_name, authorities_name = files.variables
    server, health, client = None, None, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _restrict(client, files)
    try:
        if material.authorities:
            client.load_verify_locations(cadata=_text(material.authorities))
        else:
            client.load_default_certs(ssl.Purpose.SERVER_AUTH)
        known = authorities_in(material.authorities)
    except (ssl.SSLError, ValueError) as error:
        reason = f"has no certificates in PEM ({_reason(error)})"
        raise _problem(authorities_name, files.authorities, reason) from None
    valid = None
    if material.certificate:
        valid = _validity(material.certificate, certificate_name, files.certificate)
        server, health = (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _ in range(2))
        for context in (server, health):
            _restrict(context, files)
            context.set_ecdh_curve(CURVE)
            # Without tickets: a resumed session would be accepted although its certificate's authority was removed.
            context.num_tickets = 0
            context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
            if files.client_auth != "off":
                context.load_verify_locations(cadata=_text(material.authorities))
                context.verify_mode = ssl.CERT_OPTIONAL
        if files.client_auth == "required":
            server.verify_mode = ssl.CERT_REQUIRED
        for context in (server, health, client):
            _load_pair(context, files, key_name)
    if read_files(files) != material:
        raise FilesReplaced
    return Contexts(server, health, client, valid, known)


def _restrict(context: ssl.SSLContext, files: TlsFiles) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if files.min_version == "1.3" else ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION


def _load_pair(context: ssl.SSLContext, files: TlsFiles, key_name: str) -> None:
    def no_password() -> str:
        raise _problem(key_name, files.key, "is encrypted; use one without a password")

    try:
        context.load_cert_chain(files.certificate, files.key, no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            text = f"{key_name}: {files.key} does not fit the certificate in {files.certificate}"
            raise OtherKey(text) from None
        reason = f"is no private key in PEM, or {files.certificate} no certificate ({_reason(error)})"
        raise _problem(key_name, files.key, reason) from None
    except OSError as error:
        raise _problem(key_name, files.key, f"cannot be read ({error.strerror})") from None


def _validity(certificate: bytes, variable: str, name: str) -> Validity:
    try:
        text = _text(certificate)
        start, end = text.index(ssl.PEM_HEADER), text.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)
        return validity(ssl.PEM_cert_to_DER_cert(text[start:end]))
    except ValueError:
        raise _problem(variable, name, "has no certificate in PEM") from None


def _contents(name: str, variable: str) -> bytes:
    if not name:
        return b""
    try:
        with Path(name).open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _problem(variable, name, f"cannot be read ({error.strerror})") from None
    if not content or len(content) > MAX_FILE_BYTES:
        raise _problem(variable, name, f"has {len(content)} bytes; allowed: 1 to {MAX_FILE_BYTES}")
    return content


def _text(pem: bytes) -> str:
    # Files may have comments around the blocks in any encoding; the library takes ASCII only.
    return pem.decode("ascii", errors="replace").replace("\N{REPLACEMENT CHARACTER}", "?")


def _problem(variable: str, name: str, reason: str) -> CertificateProblem:
    return CertificateProblem(f"{variable}: {name} {reason}")


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error).replace("_", " ").lower()
