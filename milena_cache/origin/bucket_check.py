"""Coordination. Checks at the start that the default bucket can be used, and logs the problem until it can.

A node with a wrong bucket name or without credentials runs and returns S3's errors, so that its state can be
queried; it is not ready until S3 has responded once. After that an outage of S3 does not make it unready: it still
serves its entries, and removing it from service would be no improvement.

The store's capabilities are probed as soon as the bucket responds, before the node reports that it is ready. A
probe that fails for a transient reason is repeated in the background.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

from milena_cache.objects.object_store import Fault, OriginFailure
from milena_cache.origin.requests import Origin
from milena_common.runtime.backoff import Backoff
from milena_common.runtime.clock import Clock

log = logging.getLogger(__name__)

BACKOFF = Backoff(first=0.5, max_delay=10.0)
# For probes, which write: a store at which one always fails must not get much load from them.
PROBE_BACKOFF = Backoff(first=0.5, max_delay=600.0)

_ADVICE = {
    Fault.NO_BUCKET: "create the bucket, or correct S3_BUCKET, AWS_REGION or S3_ENDPOINT_URL",
    Fault.DENIED: "check the credentials; Milena needs s3:ListBucket, s3:GetObject, s3:PutObject, s3:DeleteObject",
    Fault.ACCOUNT: "check AWS_REGION, the credentials and the account that they belong to",
    Fault.UNEXPECTED: "S3_ENDPOINT_URL is not an S3, or a load balancer or gateway in front of it responds",
    Fault.REJECTED: "check S3_BUCKET, AWS_REGION and S3_ENDPOINT_URL",
    Fault.CONNECT: "check S3_ENDPOINT_URL and the network",
    Fault.TIMEOUT: "check S3_ENDPOINT_URL and the network",
}


def _advice(failure: OriginFailure) -> str:
    if failure.fault is Fault.CONNECT and failure.status == "local":
        return "raise the limit"  # nothing was sent: there was no free file descriptor
    return _ADVICE.get(failure.fault, "S3 may recover by itself")


# Probes the store; returns False if the probe must be repeated.
Probe = Callable[[], Awaitable[bool]]


class BucketCheck:
    """The check of the default bucket.

    `problem` describes the bucket's problem; "" once it was reached and all `probes` have run.
    """

    def __init__(
        self,
        store: Origin,
        bucket: str,
        clock: Clock,
        rng: Callable[[], float],
        probes: Sequence[Probe] = (),
    ) -> None:
        self.problem = f"the bucket {bucket} has not been reached yet"
        self._store = store
        self._bucket = bucket
        self._clock = clock
        self._rng = rng
        self._probes = list(probes)

    async def run(self) -> None:
        """Check until the bucket responds, then probe the store until no probe must be repeated."""
        await self._reach()
        failures = 0
        while True:
            # Each probe has its own timeout.
            self._probes = [probe for probe in self._probes if not await probe()]
            if self.problem:
                self.problem = ""
                log.info("bucket %s can be used", self._bucket)
            if not self._probes:
                return
            failures += 1
            await self._clock.sleep(PROBE_BACKOFF.delay(failures, self._rng))

    async def _reach(self) -> None:
        """Return when the bucket responds."""
        failures = 0
        while True:
            try:
                await self._store.check_bucket(self._bucket)
            except OriginFailure as failure:
                failures += 1
                problem = f"bucket {self._bucket} cannot be used: {failure}; {_advice(failure)}"
                if problem != self.problem:
                    log.error("%s; trying again until it works", problem)
                self.problem = problem
                await self._clock.sleep(BACKOFF.delay(failures, self._rng))
            else:
                return
