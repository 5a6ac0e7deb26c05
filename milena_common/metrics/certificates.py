"""Shell. The metrics of a process's certificates, the same for router and node."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.metrics_core import Metric

from milena_common.metrics.families import counters, gauge
from milena_common.tls.certificates import Certificates


def certificate_metrics(certificates: Certificates | None) -> Iterable[Metric]:
    """Yield what a process with TLS exports about it; nothing for one without."""
    if certificates is None:
        return
    if certificates.validity is not None:
        yield gauge(
            "milena_tls_expiry_timestamp_seconds",
            "When the certificate in use expires, in seconds since 1970",
            certificates.validity.expires_at,
        )
    yield counters(
        "milena_tls_reloads",
        "New contents of the files of TLS: taken (ok), or not because something is wrong with them (failed)",
        ["result"],
        (([result], number) for result, number in certificates.reloads.items()),
    )
    yield counters(
        "milena_tls_rejected_handshakes",
        "Connections that ended before the end of their TLS handshake; not those to gRPC ports",
        ["port", "reason"],
        (([port, reason], number) for (port, reason), number in sorted(certificates.rejected.items())),
    )
