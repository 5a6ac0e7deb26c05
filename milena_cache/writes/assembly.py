"""Coordination. The last step of an object that S3 has in parts: the request by which it is there.

Its response may be lost, and S3 may carry it out late. So a failure whose outcome is unknown ends with a removal of
the upload, after which no late request can succeed, and with a look, which recognizes the object by its version, or
by the ETag that its parts give it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import md5
from typing import NamedTuple, Protocol

from milena_cache.objects.etags import same_etag
from milena_cache.objects.lineage import Lineages
from milena_cache.objects.object_store import Fault, Info, OriginFailure, Ref
from milena_cache.objects.version import ABSENT, Version, lineage_of, stamped
from milena_cache.objects.write_request import Change
from milena_cache.origin.conditions import Capability, Conditions
from milena_cache.origin.requests import BACKOFF, Origin
from milena_cache.origin.s3.digest import md5_named_by
from milena_common.api.errors import ConditionFailed

# Seconds for the removal of an upload that has failed.
ABORT_SECONDS = 30.0


class Completed(NamedTuple):
    """An object that was made of its parts.

    etag: as S3 spells it, quotes included
    found: the object as a look after that has found it; None if it was not found, or is another one already
    """

    etag: str
    found: Info | None


class Upload(NamedTuple):
    """An upload whose parts S3 has.

    ref: the object that is made of it
    upload: its id
    etags: of the parts, in their order
    numbers: of the parts; (): from 1 on, without a gap
    version: that S3 got when it began; None if a caller of the node has begun it
    size: bytes of the object; None if it is not known
    """

    ref: Ref
    upload: str
    etags: Sequence[str]
    numbers: Sequence[int] = ()
    version: Version | None = None
    size: int | None = None


class StoredParts(Protocol):
    """An object of which S3 has all the parts."""

    async def complete(self, change: Change, deadline: float, *, decided: bool) -> Completed:
        """Make the object; see `Assembly.complete`."""


class Assembly:
    """Makes objects of uploads, each with up to `retries` further attempts.

    `is_over`: returns True for an object in S3 that has expired.
    """

    def __init__(
        self,
        origin: Origin,
        conditions: Conditions,
        lineages: Lineages,
        is_over: Callable[[Info, Ref], bool],
        rng: Callable[[], float],
        retries: int,
    ) -> None:
        self.origin = origin
        self.lineages = lineages
        self._conditions = conditions
        self._is_over = is_over
        self._rng = rng
        self._retries = retries

    async def complete(self, upload: Upload, change: Change, deadline: float, *, decided: bool) -> Completed:
        """Make the object of its parts; no request begins after `deadline` (monotonic seconds).

        `decided`: the condition of `change` was checked against a write that S3 does not have; else S3 checks it.
        Raises ConditionFailed, and OriginFailure, whose `ambiguous` is False if the object was certainly not made.
        """
        if_match, if_absent = "", False
        if change.conditional and not decided:
            found = await self.origin.look(upload.ref, deadline)
            gone = found is None or self._is_over(found, upload.ref)
            current = ABSENT if gone or found is None else found.etag
            if not change.is_met_by(current):
                raise ConditionFailed(f"{upload.ref}: {_has(found if not gone else None)}")
            if self._conditions.sends(Capability.MULTIPART):
                # An object that has expired and is still there is replaced, and no other.
                if_match, if_absent = ("", True) if found is None else (found.etag, False)
        failures, unknown = 0, False
        while True:
            try:
                etag = await self.origin.complete_multipart(
                    upload.ref,
                    upload.upload,
                    upload.etags,
                    deadline,
                    numbers=upload.numbers,
                    if_match=if_match,
                    if_absent=if_absent,
                )
            except OriginFailure as failure:
                unknown = unknown or failure.ambiguous
                if failure.fault is Fault.UNSUPPORTED and (if_match or if_absent):
                    self._conditions.unsupported(Capability.MULTIPART)
                    if_match, if_absent = "", False
                    continue
                failures += 1
                pause = BACKOFF.delay(failures, self._rng)
                too_late = self.origin.clock.now() + pause >= deadline
                if not failure.fault.retryable or failures > self._retries or too_late:
                    return await self._resolved(upload, failure, unknown=unknown)
            else:
                break
            await self.origin.clock.sleep(pause)
        try:
            made = await self._found(upload, deadline)
        except OriginFailure:
            made = None
        return Completed(etag, None) if made is None else _whole(upload, made)

    async def _resolved(self, upload: Upload, failure: OriginFailure, *, unknown: bool) -> Completed:
        """Find out whether the object was made although `failure` came last. Raises it if not."""
        if unknown:
            # A repeated request fails if the first one was carried out.
            failure.ambiguous = True
            deadline = self.origin.clock.now() + ABORT_SECONDS
            try:
                await self.origin.abort_multipart(upload.ref, upload.upload, deadline)
                made = await self._found(upload, deadline)
            except OriginFailure:
                raise failure from None
            if made is not None:
                return _whole(upload, made)
            failure.ambiguous = False
        if failure.fault is Fault.CHANGED:
            raise ConditionFailed(f"{upload.ref}: another writer changed the object") from None
        raise failure from None

    async def _found(self, upload: Upload, deadline: float) -> Info | None:
        """Return the object if S3's is this one. Raises OriginFailure."""
        found = await self.origin.look(upload.ref, deadline)
        if found is None:
            return None
        is_stamped = upload.version is not None and stamped(found.metadata, upload.ref) == upload.version
        own = is_stamped and lineage_of(found.metadata) == self.lineages.own
        return found if own or same_etag(found.etag, _etag_of_parts(upload.etags)) else None


def _whole(upload: Upload, made: Info) -> Completed:
    if upload.size is not None and made.size != upload.size:
        text = f"S3 has {made.size} bytes of the {upload.size} that were written"
        raise OriginFailure(Fault.UNEXPECTED, "multipart", upload.ref, "another size", "200", text)
    return Completed(made.etag, made)


def _has(found: Info | None) -> str:
    return "there is no object" if found is None else f"the object's ETag is {found.etag}"


def _etag_of_parts(etags: Sequence[str]) -> str:
    """Return the ETag that S3 gives to an object of these parts; "" if theirs are no MD5s."""
    digests = [md5_named_by(etag) for etag in etags]
    if not all(digests):
        return ""
    return f'"{md5(bytes.fromhex("".join(digests)), usedforsecurity=False).hexdigest()}-{len(etags)}"'
