"""Coordination. One object that is stored in S3 in parts, so that it never is in memory as a whole.

    bytes ─▶ part that is filled ─▶ part that is uploaded ─▶ … ─▶ complete: the object is there
                 8 MiB                    8 MiB

Nothing of the object is visible before `complete`, whose request is the only one that has an effect. Its response
may be lost, and S3 may carry it out late. So a failure whose outcome is unknown ends with a removal of the upload,
after which no late request can succeed, and with a look, which recognizes the object by its version.

The version is that of the first part, because S3 takes metadata then. A write of the key that is acknowledged
while the parts are uploaded has a greater version, and yet is the earlier one. That is why `complete` is
acknowledged only when no record and no copy of such a write is left, as a delete is, whose version S3 does not show
either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from hashlib import md5
from math import inf
from typing import NamedTuple

from milena_cache.objects.etags import same_etag
from milena_cache.objects.lineage import Lineages
from milena_cache.objects.object_store import Fault, Info, OriginFailure, Ref
from milena_cache.objects.version import ABSENT, Version, lineage_of, stamp, stamped
from milena_cache.objects.write_request import Change
from milena_cache.origin.conditions import Capability, Conditions
from milena_cache.origin.requests import BACKOFF, Origin
from milena_cache.origin.s3.digest import md5_named_by
from milena_common.api.errors import ConditionFailed, DeadlineExceeded, FailedPrecondition

# Bytes of all parts but the last: some stores want them to be equal. At least 5 MiB in S3.
PART_BYTES = 8 * 2**20
# S3's limit.
MAX_PARTS = 10_000
MAX_OBJECT_BYTES = MAX_PARTS * PART_BYTES
# Bytes that one object has in memory at most: a part that is filled, and one that is uploaded.
MEMORY_BYTES = 2 * PART_BYTES
# Seconds for the removal of an upload that has failed.
ABORT_SECONDS = 30.0


class Completed(NamedTuple):
    """An object that was made of its parts.

    etag: as S3 spells it, quotes included
    found: the object as a look after that has found it; None if it was not found, or is another one already
    """

    etag: str
    found: Info | None


class Multipart:
    """A multipart upload of one object to `ref`, and the bytes that S3 does not have yet.

    size: bytes of the object so far
    begun: True once a part was begun, so that S3 may have something that `remove_upload` removes
    """

    def __init__(
        self,
        ref: Ref,
        next_version: Callable[[], Version],
        origin: Origin,
        conditions: Conditions,
        lineages: Lineages,
        is_over: Callable[[Info, Ref], bool],
        rng: Callable[[], float],
        retries: int,
    ) -> None:
        self.size = 0
        self.begun = False
        self._ref = ref
        self._next_version = next_version
        self._version: Version | None = None
        self._origin = origin
        self._conditions = conditions
        self._lineages = lineages
        self._is_over = is_over
        self._rng = rng
        self._retries = retries
        self._upload = ""
        self._etags: list[str] = []
        self._filling = bytearray()
        self._uploading: asyncio.Task[None] | None = None

    @property
    def value(self) -> bytes:
        """The bytes of an object of which no part was begun."""
        return bytes(self._filling)

    async def add(self, value: memoryview, deadline: float) -> None:
        """Take the next bytes; waits while one part is full and the one before is being uploaded.

        `size` counts what was taken, also if this fails. Raises FailedPrecondition beyond MAX_OBJECT_BYTES,
        DeadlineExceeded, and S3's error of a part.
        """
        if self.size + len(value) > MAX_OBJECT_BYTES:
            raise FailedPrecondition(
                f"{self._ref}: the object has more than {MAX_OBJECT_BYTES} bytes, which is the most that can be "
                f"written: {MAX_PARTS} parts of {PART_BYTES} bytes"
            )
        while value:
            if len(self._filling) == PART_BYTES:
                await self._part_done(deadline)
                self._begin_part()
            taken = value[: PART_BYTES - len(self._filling)]
            self._filling += taken
            self.size += len(taken)
            value = value[len(taken) :]

    def _begin_part(self) -> None:
        part, self._filling = self._filling, bytearray()
        self.begun = True
        # A task of its own: a caller that gives up cancels no request, and repeats its step.
        self._uploading = asyncio.get_running_loop().create_task(self._send(part))

    async def _send(self, part: bytearray) -> None:
        if not self._upload:
            self._version = self._next_version()
            metadata = stamp(self._version, self._ref, self._lineages.own)
            self._upload = await self._origin.create_multipart(self._ref, inf, metadata=metadata)
        self._etags.append(await self._origin.upload_part(self._ref, self._upload, len(self._etags) + 1, part, inf))

    async def _part_done(self, deadline: float) -> None:
        """Wait for the part that is being uploaded. Raises DeadlineExceeded, and S3's error."""
        task = self._uploading
        if task is None:
            return
        await asyncio.wait((task,), timeout=max(0.0, deadline - self._origin.clock.now()))
        if not task.done():
            raise DeadlineExceeded(f"{self._ref}: S3 has not taken part {len(self._etags) + 1} in time")
        try:
            task.result()
        except OriginFailure as failure:
            raise failure.as_error() from None

    async def finish_parts(self, deadline: float) -> None:
        """Upload what is left as the last part. Raises DeadlineExceeded, and S3's error."""
        await self._part_done(deadline)
        if self._filling or not self._etags:
            self._begin_part()
            await self._part_done(deadline)

    async def complete(self, change: Change, deadline: float, *, decided: bool) -> Completed:
        """Make the object of its parts; no request begins after `deadline` (monotonic seconds).

        `decided`: the condition of `change` was checked against a write that S3 does not have; else S3 checks it.
        Raises ConditionFailed, and OriginFailure, whose `ambiguous` is False if the object was certainly not made.
        """
        if_match, if_absent = "", False
        if change.conditional and not decided:
            found = await self._origin.look(self._ref, deadline)
            gone = found is None or self._is_over(found, self._ref)
            current = ABSENT if gone or found is None else found.etag
            if not change.is_met_by(current):
                raise ConditionFailed(f"{self._ref}: {_has(found if not gone else None)}")
            if self._conditions.sends(Capability.MULTIPART):
                # An object that has expired and is still there is replaced, and no other.
                if_match, if_absent = ("", True) if found is None else (found.etag, False)
        failures, unknown = 0, False
        while True:
            try:
                etag = await self._origin.complete_multipart(
                    self._ref, self._upload, self._etags, deadline, if_match=if_match, if_absent=if_absent
                )
            except OriginFailure as failure:
                unknown = unknown or failure.ambiguous
                if failure.fault is Fault.UNSUPPORTED and (if_match or if_absent):
                    self._conditions.unsupported(Capability.MULTIPART)
                    if_match, if_absent = "", False
                    continue
                failures += 1
                pause = BACKOFF.delay(failures, self._rng)
                too_late = self._origin.clock.now() + pause >= deadline
                if not failure.fault.retryable or failures > self._retries or too_late:
                    return await self._resolved(failure, unknown=unknown)
            else:
                break
            await self._origin.clock.sleep(pause)
        try:
            made = await self._found(deadline)
        except OriginFailure:
            made = None
        return Completed(etag, None) if made is None else self._whole(made)

    async def _resolved(self, failure: OriginFailure, *, unknown: bool) -> Completed:
        """Find out whether the object was made although `failure` came last. Raises it if not."""
        if unknown:
            # A repeated request fails if the first one was carried out.
            failure.ambiguous = True
            deadline = self._origin.clock.now() + ABORT_SECONDS
            try:
                await self._origin.abort_multipart(self._ref, self._upload, deadline)
                made = await self._found(deadline)
            except OriginFailure:
                raise failure from None
            if made is not None:
                return self._whole(made)
            failure.ambiguous = False
        if failure.fault is Fault.CHANGED:
            raise ConditionFailed(f"{self._ref}: another writer changed the object") from None
        raise failure from None

    async def _found(self, deadline: float) -> Info | None:
        """Return the object if S3's is this one. Raises OriginFailure."""
        found = await self._origin.look(self._ref, deadline)
        if found is None:
            return None
        is_stamped = stamped(found.metadata, self._ref) == self._version
        own = is_stamped and lineage_of(found.metadata) == self._lineages.own
        return found if own or same_etag(found.etag, _etag_of_parts(self._etags)) else None

    def _whole(self, made: Info) -> Completed:
        if made.size != self.size:
            text = f"S3 has {made.size} bytes of the {self.size} that were written"
            raise OriginFailure(Fault.UNEXPECTED, "multipart", self._ref, "another size", "200", text)
        return Completed(made.etag, made)

    async def remove_upload(self) -> None:
        """Remove what S3 has of the object, if it can be reached; waits for the part that is being uploaded."""
        if self._uploading is not None:
            await asyncio.wait((self._uploading,))
            if not self._uploading.cancelled():
                self._uploading.exception()  # marks it as retrieved
        self._filling = bytearray()
        if self._upload:
            await self._origin.abort_multipart(self._ref, self._upload, self._origin.clock.now() + ABORT_SECONDS)


def _has(found: Info | None) -> str:
    return "there is no object" if found is None else f"the object's ETag is {found.etag}"


def _etag_of_parts(etags: list[str]) -> str:
    """Return the ETag that S3 gives to an object of these parts; "" if theirs are no MD5s."""
    digests = [md5_named_by(etag) for etag in etags]
    if not all(digests):
        return ""
    return f'"{md5(bytes.fromhex("".join(digests)), usedforsecurity=False).hexdigest()}-{len(etags)}"'
