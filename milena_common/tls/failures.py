"""Pure. The reasons of failed handshakes: as texts that name the certificate, and as labels of a metric.

With TLS 1.3 a client learns only after its own handshake that the server rejects its certificate: its connection is
ended. So a connection counts as open only when the server has replied to something, and what ends it before that is
explained with the client's own certificate.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime

from milena_common.tls.validity import Validity

# Codes of OpenSSL (X509_V_ERR_*).
_NOT_YET_VALID, _EXPIRED = 9, 10
_OTHER_NAME = (62, 64)
_UNKNOWN_AUTHORITY = (2, 18, 19, 20, 21, 24, 27)

# Words in the reasons of OpenSSL's errors, and what they mean for a client.
_MEANINGS = (
    ("CERTIFICATE_REQUIRED", "it demands a certificate of this side"),
    ("CERTIFICATE_EXPIRED", "it rejects this side's certificate, which has expired"),
    ("UNKNOWN_CA", "it rejects this side's certificate, whose authority it does not trust"),
    ("ALERT_CERTIFICATE_UNKNOWN", "it rejects this side's certificate"),
    ("BAD_CERTIFICATE", "it rejects this side's certificate"),
    ("HANDSHAKE_FAILURE", "it demands a certificate of this side, or has no common cipher"),
    ("WRONG_VERSION_NUMBER", "it does not use TLS at this port"),
    ("RECORD_LAYER_FAILURE", "it does not use TLS at this port"),
    ("UNSUPPORTED_PROTOCOL", "it has no common version of TLS"),
    ("PROTOCOL_VERSION", "it has no common version of TLS"),
    ("NO_SHARED_CIPHER", "it has no common cipher"),
)
# The same for a server.
_REASONS = (
    ("PEER_DID_NOT_RETURN_A_CERTIFICATE", "no_certificate"),
    ("HTTP_REQUEST", "not_tls"),
    ("WRONG_VERSION_NUMBER", "not_tls"),
    ("RECORD_LAYER_FAILURE", "not_tls"),
    ("UNSUPPORTED_PROTOCOL", "version"),
    ("NO_SHARED_CIPHER", "version"),
    ("NO_SUITABLE", "version"),
    ("ALERT", "rejected_by_client"),
)


def failure(error: BaseException, name: str, authorities: str) -> str:
    """Return what `error` of the handshake with a server means for the client; "" if it is not one of TLS.

    `name`: that the server's certificate must have. `authorities`: what it is verified by.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        code = error.verify_code
        if code == _EXPIRED:
            return "its certificate has expired"
        if code == _NOT_YET_VALID:
            return "its certificate is not valid yet"
        if code in _OTHER_NAME:
            return f"its certificate is not for the name {name!r}"
        if code in _UNKNOWN_AUTHORITY:
            return f"its certificate is not of an authority that this side trusts ({authorities})"
        return f"its certificate is rejected: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        reason = error.reason or str(error)
        return next((text for word, text in _MEANINGS if word in reason), f"the TLS handshake failed: {reason}")
    return ""


def rejection_hint(own: Validity | None, now: float, variable: str) -> str:
    """Return why a server may have ended a connection right after the handshake, by the client's own certificate.

    `own`: when it is valid, None if there is none. `now`: seconds since 1970. `variable`: the setting of the file.
    """
    if own is None:
        return f"it may demand a certificate of this side, which shows none ({variable})"
    if now > own.expires_at:
        return f"this side's certificate ({variable}) has expired at {_date(own.expires_at)}"
    if now < own.begins_at:
        return f"this side's certificate ({variable}) is not valid before {_date(own.begins_at)}"
    return f"it may not trust the authority of this side's certificate ({variable})"


def grpc_failure(details: str, name: str, authorities: str) -> str:
    """Return what gRPC's text about a failed connection says of TLS, as `failure`; "" if nothing."""
    if "Hostname Verification Check failed" in details:
        return f"its certificate is not for the name {name!r}"
    if "certificate has expired" in details:
        return "its certificate has expired"
    if "certificate is not yet valid" in details:
        return "its certificate is not valid yet"
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return f"its certificate is not of an authority that this side trusts ({authorities})"
    if "WRONG_VERSION_NUMBER" in details:
        return "it does not use TLS at this port"
    return ""


def closed_at_once(details: str) -> bool:
    """Return True if gRPC's text says that a connection was ended by the server before it counted as open."""
    return any(
        text in details for text in ("Socket closed", "Connection reset", "Broken pipe", "End of TCP stream")
    )


def rejection_reason(error: BaseException) -> str:
    """Return the reason of a handshake that failed on the server, one of a few words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return {_EXPIRED: "expired", _NOT_YET_VALID: "not_yet_valid"}.get(error.verify_code, "unknown_authority")
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        return next((label for word, label in _REASONS if word in reason), "other")
    if isinstance(error, TimeoutError | ConnectionAbortedError):
        return "timeout"
    return "closed" if isinstance(error, ConnectionError | EOFError) else "other"


def _date(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
