"""Pure. How to reach S3: what both of its clients need to know."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class S3Settings:
    """Timeouts in seconds, for one attempt each. `endpoint_url` is "" for AWS."""

    region: str
    endpoint_url: str
    timeout: float
    connect_timeout: float
