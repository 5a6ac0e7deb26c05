"""Coordination. Brings one write to S3, so that it cannot overwrite what is later than it.

Every request is conditional on what S3 holds, so that one that S3 carries out late, after we gave it up, finds its
condition no longer met. Where it is not known what S3 holds, a put first tries to create; for a large value, a
delete, and after a lost answer it looks first. What a look means is decided in `settle`.

One attempt at each step: failures that may pass are the caller's to wait for.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import Enum
from typing import Literal, NamedTuple

from milena_cache.expiry import NEVER, expires_metadata
from milena_cache.origin import Origin
from milena_cache.settle import Verdict, name_beside, settle
from milena_cache.store import Fault, Info, OriginFailure, Ref
from milena_cache.version import ABSENT, UNKNOWN, Base, Version, stamp

log = logging.getLogger(__name__)

# Above this, a look before is cheaper than a value that is sent and refused.
LOOK_FIRST_BYTES = 2**20
# Others may change the object between our look and our write; after so many rounds that is contention.
MOST_ROUNDS = 5

Policy = Literal["overwrite", "fail", "keep-both"]
POLICIES: tuple[Policy, ...] = ("overwrite", "fail", "keep-both")


class Ending(Enum):
    """How a write ended."""

    UPLOADED = "uploaded"
    DELETED = "deleted"
    ALREADY = "already"
    SUPERSEDED = "superseded"
    KEPT_BESIDE = "conflict"


class Landed(NamedTuple):
    """`base` is what S3 holds now: ours, unless `how` is SUPERSEDED or KEPT_BESIDE."""

    how: Ending
    base: Base


@dataclass(slots=True)
class Write:
    """A write on its way; `base` and `unsure` are what is known after each step, also after a failure.

    `value` None is a delete. `or_absent`: a delete of ours may have happened over `base`. `policy` None: whatever
    is there may be overwritten. `strict`: its caller named the base, and it is refused if S3 holds anything else.
    `expires_at`: when the object ends, in seconds since 1970. `ended`: it is a delete, because the object came to
    its end before it was in S3; what somebody else has written since the base is not deleted by it.
    """

    ref: Ref
    version: Version
    value: bytes | None
    base: Base
    policy: Policy | None
    unsure: bool = False
    strict: bool = False
    or_absent: bool = False
    expires_at: float = NEVER
    ended: bool = False


class Conflict(Exception):
    """Somebody else changed the object, and the policy is not to overwrite it."""


class Uploader:
    """Writes to S3 through `origin`. Counts conflicts by policy."""

    def __init__(self, origin: Origin) -> None:
        self.conflicts = dict.fromkeys(POLICIES, 0)
        self._origin = origin
        self._conditional = True

    async def upload(self, write: Write, give_up_at: float) -> Landed:
        """Bring `write` to S3; nothing is begun after `give_up_at`. Raises OriginFailure or Conflict."""
        for _ in range(MOST_ROUNDS):
            refused: OriginFailure | None = None
            if write.unsure or self._must_look(write):
                try:
                    found = await self._origin.look(write.ref, give_up_at)
                except OriginFailure as failure:
                    if not (_says_nothing(failure) and self._is_safe(write)):
                        raise
                    refused = failure
                else:
                    landed = await self._judge(write, found, give_up_at)
                    if landed is not None:
                        return landed
            try:
                return await self._attempt(write, give_up_at)
            except OriginFailure as failure:
                if failure.fault is Fault.CHANGED:
                    if refused is not None:
                        raise refused from None  # S3 holds something that it does not let us look at
                    write.unsure = True
                elif failure.fault is Fault.UNSUPPORTED and self._conditional:
                    self._conditional = False
                    log.warning("this S3 has no conditional writes: other writers' changes may be overwritten")
                else:
                    # A 5xx most often means that nothing happened; the next attempt's condition tells otherwise.
                    if failure.fault in (Fault.TIMEOUT, Fault.INCOMPLETE, Fault.UNEXPECTED):
                        write.unsure = True
                    raise
        raise OriginFailure(Fault.BUSY, "put", write.ref, "others keep changing the object", "412")

    def _must_look(self, write: Write) -> bool:
        if write.value is None or not self._conditional:
            return True
        return write.base is UNKNOWN and len(write.value) > LOOK_FIRST_BYTES

    def _is_safe(self, write: Write) -> bool:
        """Whether an attempt has a condition to hold it back."""
        return self._conditional and (write.value is not None or isinstance(write.base, str))

    async def _judge(self, write: Write, found: Info | None, give_up_at: float) -> Landed | None:
        """How `write` has ended when S3 holds `found`; None if it has to be written over that, its base now."""
        base = write.base if write.policy or write.strict else UNKNOWN
        settled = settle(
            found,
            write.ref,
            write.version,
            base,
            deleting=write.value is None,
            strict=write.strict,
            or_absent=write.or_absent,
            wall=self._origin.clock.wall(),
        )
        match settled.verdict:
            case Verdict.DONE:
                return Landed(Ending.ALREADY, settled.base)
            case Verdict.SUPERSEDED:
                return Landed(Ending.SUPERSEDED, settled.base)
            case Verdict.CONFLICT:
                landed = await self._conflict(write, settled.base, give_up_at)
                if landed is not None:
                    return landed
        write.base = settled.base
        write.or_absent = False
        write.unsure = False
        return None

    async def _conflict(self, write: Write, theirs: Base, give_up_at: float) -> Landed | None:
        """What the policy says; None means to overwrite."""
        if write.ended:
            return Landed(Ending.SUPERSEDED, theirs)
        there = "deleted it" if theirs is ABSENT else f"wrote it (ETag {theirs})"
        if write.strict:
            raise Conflict(f"somebody else {there}")
        policy = write.policy
        assert policy is not None, "without a policy everything may be overwritten"
        if policy == "fail":
            self.conflicts[policy] += 1
            raise Conflict(f"conflict: somebody else {there} while our write waited")
        if policy == "overwrite" or theirs is ABSENT:
            log.warning("conflict: %s: somebody else %s; overwritten with %s", write.ref, there, write.version)
            self.conflicts[policy] += 1
            return None
        if write.value is None:
            kept = "theirs is kept, ours was a delete"
        else:
            kept = f"ours is kept as {await self._keep_beside(write, write.value, give_up_at)}"
        log.warning("conflict: %s: somebody else %s; %s", write.ref, there, kept)
        self.conflicts[policy] += 1
        return Landed(Ending.KEPT_BESIDE, theirs)

    async def _keep_beside(self, write: Write, value: bytes, give_up_at: float) -> Ref:
        # Its name has the version in it: nothing else is there, unless from an attempt whose answer was lost.
        beside = name_beside(write.ref, write.version)
        await self._origin.put(beside, value, give_up_at, metadata=stamp(write.version, beside))
        return beside

    async def _attempt(self, write: Write, give_up_at: float) -> Landed:
        base = write.base if self._conditional else UNKNOWN
        etag = base if isinstance(base, str) else ""
        if write.value is None:
            await self._origin.delete(write.ref, give_up_at, if_match=etag)
            return Landed(Ending.DELETED, ABSENT)
        new_etag = await self._origin.put(
            write.ref,
            write.value,
            give_up_at,
            if_match=etag,
            if_absent=self._conditional and not etag,
            metadata={**stamp(write.version, write.ref), **expires_metadata(write.expires_at)},
        )
        return Landed(Ending.UPLOADED, new_etag)


def _says_nothing(failure: OriginFailure) -> bool:
    """Whether this is the answer to a HEAD that refuses it without a reason, since it has no body.

    Then the write itself is sent, on its condition, and the answer to that says what S3 means.
    """
    return failure.fault in (Fault.DENIED, Fault.REFUSED) and failure.code.startswith("HTTP ")
