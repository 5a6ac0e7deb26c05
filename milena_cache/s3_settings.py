"""Pure. How to reach S3: what both of its clients need to know."""

from __future__ import annotations

from dataclasses import dataclass

# The slowest transfer of a value that is waited for, in bytes a second.
MIN_BYTES_PER_SECOND = 2**20


@dataclass(frozen=True, slots=True)
class S3Settings:
    """How both clients reach S3.

    region: the region of the buckets
    endpoint_url: where S3 is, "" for AWS
    timeout: seconds that S3 may be silent in one attempt, before an answer and between its parts
    connect_timeout: seconds for a connection to be made
    """

    region: str
    endpoint_url: str
    timeout: float
    connect_timeout: float

    def transfer_seconds(self, size: int) -> float:
        """Return the seconds within which a request that carries `size` bytes has to be answered in full."""
        return self.timeout + size / MIN_BYTES_PER_SECOND
