"""Coordination. Finds out whether the default bucket can be used, and says so in the log until it can.

A node with a wrong bucket name or without credentials runs and answers with S3's words, so that it can be asked
what is wrong; it is not ready until S3 has answered once. After that an outage of S3 does not make it unready: it
still serves what it has, and taking it out of service would help nobody.

What the store can do is probed as soon as the bucket answers, before the node says that it is ready. A probe that
fails for a passing reason is repeated in the background.
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
# Of probes, which write: a store on which one fails for ever is to have no load of them.
PROBE_BACKOFF = Backoff(first=0.5, max_delay=600.0)

_ADVICE = {
    Fault.NO_BUCKET: "create the bucket, or correct S3_BUCKET, AWS_REGION or S3_ENDPOINT_URL",
    Fault.DENIED: "check the credentials; Milena needs s3:ListBucket, s3:GetObject, s3:PutObject, s3:DeleteObject",
    Fault.ACCOUNT: "check AWS_REGION, the credentials and the account that they belong to",
    Fault.UNEXPECTED: "S3_ENDPOINT_URL is no S3, or a load balancer or gateway before it answers in its place",
    Fault.REJECTED: "check S3_BUCKET, AWS_REGION and S3_ENDPOINT_URL",
    Fault.CONNECT: "check S3_ENDPOINT_URL and the network",
    Fault.TIMEOUT: "check S3_ENDPOINT_URL and the network",
}


def _advice(failure: OriginFailure) -> str:
    if failure.fault is Fault.CONNECT and failure.status == "local":
        return "raise the limit"  # nothing was sent: no file descriptor was left
    return _ADVICE.get(failure.fault, "S3 may recover by itself")


# One thing to find out about the store; returns False if it has to be tried again.
Probe = Callable[[], Awaitable[bool]]


class BucketCheck:
    """`problem` says what is wrong with the bucket; "" once it has been reached and all `probes` were tried."""

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
        """Ask until the bucket answers, then probe the store until there is nothing to try again."""
        await self._reach()
        failures = 0
        while True:
            # A probe bounds its own time.
            self._probes = [probe for probe in self._probes if not await probe()]
            if self.problem:
                self.problem = ""
                log.info("bucket %s can be used", self._bucket)
            if not self._probes:
                return
            failures += 1
            await self._clock.sleep(PROBE_BACKOFF.delay(failures, self._rng))

    async def _reach(self) -> None:
        """Return when the bucket answers."""
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
