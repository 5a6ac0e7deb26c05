"""Coordination. Brings one write to S3, so that it cannot overwrite what is later than it.

Every request is conditional on what S3 holds, so that one that S3 carries out late, after we gave it up, finds its
condition no longer met. Where it is not known what S3 holds, a put first tries to create; for a large value, a
delete, and after a lost answer it looks first. What a look means is decided in `reconcile`.

Where the store does not honour conditions (`conditions`), each write looks first, and the node's lock on the key is
all that keeps other writes away. An object whose ETag does not satisfy `If-Match` although a look before and a look
after the refusal show it unchanged is written without a condition then. Unless others change the object meanwhile,
an upload takes at most MOST_REQUESTS requests.

A write that changes nothing but metadata (`keeps`) is a copy of the object onto itself, inside S3, that repeats
what S3 keeps with it.

One attempt at each step: failures that may pass are the caller's to wait for.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal, NamedTuple

from milena_cache.objects.etags import same_etag
from milena_cache.objects.expiry import NEVER, expires_metadata, without_milenas
from milena_cache.objects.lineage import Lineages
from milena_cache.objects.object_store import NO_ATTRIBUTES, Fault, Info, OriginFailure, Ref
from milena_cache.objects.version import ABSENT, UNKNOWN, Base, Version, lineage_of, stamp
from milena_cache.objects.write_request import etag_of
from milena_cache.origin.conditions import Capability, Conditions
from milena_cache.origin.requests import Origin
from milena_cache.writeback.uploads.reconcile import Verdict, name_beside, reconcile
from milena_cache.writeback.uploads.s3_belief import S3Belief
from milena_common.runtime.log_limiter import LogLimiter

log = logging.getLogger(__name__)

# Above this, a look before is cheaper than a value that is sent and refused.
LOOK_FIRST_BYTES = 2**20
# Others may change the object between our look and our write; after so many rounds that is contention.
MAX_ROUNDS = 5
# Of an upload that no other writer disturbs: refused, looked at, refused, looked at, written without a condition. A
# look at an object that is not there takes `s3` a GET besides.
MAX_REQUESTS = 5

Policy = Literal["overwrite", "fail", "keep-both"]
POLICIES: tuple[Policy, ...] = ("overwrite", "fail", "keep-both")


class UploadOutcome(Enum):
    """How a write ended."""

    UPLOADED = "uploaded"
    DELETED = "deleted"
    ALREADY = "already"
    SUPERSEDED = "superseded"
    KEPT_BESIDE = "conflict"


class UploadResult(NamedTuple):
    """`base` is what S3 holds now: ours, unless `outcome` is SUPERSEDED or KEPT_BESIDE."""

    outcome: UploadOutcome
    base: Base


@dataclass(slots=True)
class Write:
    """A write on its way; `belief` is what is believed of S3 after each step, also after a failure.

    `value` None is a delete. `policy` None: any object there may be overwritten. `strict`: its caller named the
    base, and it is refused if S3 holds another. `expires_at`: when the object ends, in seconds since 1970.
    `expired`: it is a delete, because the object came to its end before it was in S3; what somebody else has
    written since the base is not deleted by it.
    """

    ref: Ref
    version: Version
    value: bytes | None
    belief: S3Belief
    policy: Policy | None
    strict: bool = False
    expires_at: float = NEVER
    expired: bool = False


class Conflict(Exception):
    """Somebody else changed the object, and the policy is not to overwrite it."""


class Uploader:
    """Writes to S3 through `origin`, as one of the cluster of `lineages`. Counts conflicts by policy."""

    def __init__(self, origin: Origin, conditions: Conditions, lineages: Lineages) -> None:
        self.conflicts = dict.fromkeys(POLICIES, 0)
        self.conditions = conditions
        self._origin = origin
        self._lineages = lineages
        self._log = LogLimiter()

    async def upload(self, write: Write, deadline: float) -> UploadResult:
        """Bring `write` to S3; nothing is begun after `deadline`. Raises OriginFailure or Conflict."""
        # What the last look in this upload found, and what the last look before a refused attempt had found.
        looked: Base = UNKNOWN
        denied: Base = UNKNOWN
        for _ in range(MAX_ROUNDS):
            rejected: OriginFailure | None = None
            found: Info | None = None
            if write.belief.indeterminate or self._must_look(write):
                try:
                    found = await self._look(write, deadline)
                except OriginFailure as failure:
                    if not (_says_nothing(failure) and self._is_safe(write)):
                        raise
                    rejected = failure
                else:
                    result = await self._judge(write, found, deadline)
                    if result is not None:
                        return result
                    looked = write.belief.base
            condition = _condition(write)
            sends = self.conditions.sends(condition)
            if sends and looked is not UNKNOWN and _same(looked, denied):
                # Looked at, refused, and looked at again: unchanged. The next refusal would say nothing new.
                sends = False
                self._does_not_hold(condition, write)
            try:
                result = await self._attempt(write, found, deadline, conditional=sends)
            except OriginFailure as failure:
                if failure.fault is Fault.CHANGED:
                    if rejected is not None:
                        raise rejected from None  # S3 holds something that it does not let us look at
                    write.belief = write.belief.in_doubt()
                    denied, looked = looked, UNKNOWN
                elif failure.fault is Fault.UNSUPPORTED and sends:
                    if self.conditions.unsupported(condition):
                        log.warning(
                            "this S3 has no conditional writes: changes by others may be overwritten (%s: 501)",
                            condition.value,
                        )
                else:
                    # A 5xx most often means that nothing happened; the next attempt's condition tells otherwise.
                    if failure.fault in (Fault.TIMEOUT, Fault.INCOMPLETE, Fault.UNEXPECTED):
                        write.belief = write.belief.in_doubt()
                    raise
            else:
                if sends:
                    self.conditions.held(condition)
                return result
        raise OriginFailure(Fault.BUSY, "put", write.ref, "others keep changing the object", "412")

    async def _look(self, write: Write, deadline: float) -> Info | None:
        if write.belief.keeps and write.value is not None:
            return await self._origin.describe(write.ref, deadline)
        return await self._origin.look(write.ref, deadline)

    def _must_look(self, write: Write) -> bool:
        if write.value is None or write.belief.keeps or not self.conditions.trusts(_condition(write)):
            return True
        return write.belief.base is UNKNOWN and len(write.value) > LOOK_FIRST_BYTES

    def _is_safe(self, write: Write) -> bool:
        """Whether an attempt has a condition to hold it back."""
        has_one = not write.belief.keeps if write.value is not None else isinstance(write.belief.base, str)
        return has_one and self.conditions.trusts(_condition(write))

    def _does_not_hold(self, condition: Capability, write: Write) -> None:
        self.conditions.did_not_hold(condition, write.ref)
        if self._log.allow(self._origin.clock.now()):
            log.warning(
                "%s: S3 denies %s although the object is what the condition names; written without it, so that "
                "changes by other writers may be overwritten%s",
                write.ref,
                condition.value,
                self._log.suppressed(),
            )

    async def _judge(self, write: Write, found: Info | None, deadline: float) -> UploadResult | None:
        """How `write` has ended when S3 holds `found`; None if it has to be written over that, its base now."""
        belief, late, lineages = write.belief, write.belief.late, self._lineages
        if found is not None and lineages.undecided(lineage_of(found.metadata), late=late):
            text = "another lineage wrote the object, and which ones are the cluster's shows when the ring is known"
            raise OriginFailure(Fault.BUSY, "head", write.ref, text, "local")
        base = belief.base if write.policy or write.strict else UNKNOWN
        reconciled = reconcile(
            found,
            write.ref,
            write.version,
            base,
            deleting=write.value is None,
            strict=write.strict,
            maybe_absent=belief.maybe_absent,
            wall=self._origin.clock.wall(),
            kin=lineages.late_kin if late else lineages.kin,
        )
        match reconciled.verdict:
            case Verdict.DONE:
                return UploadResult(UploadOutcome.ALREADY, reconciled.base)
            case Verdict.SUPERSEDED:
                return UploadResult(UploadOutcome.SUPERSEDED, reconciled.base)
            case Verdict.CONFLICT if write.policy or write.strict or write.expired:
                result = await self._conflict(write, reconciled.base, deadline)
                if result is not None:
                    return result
        write.belief = belief.observed(reconciled.base)
        return None

    async def _conflict(self, write: Write, theirs: Base, deadline: float) -> UploadResult | None:
        """What the policy says; None means to overwrite."""
        if write.expired:
            return UploadResult(UploadOutcome.SUPERSEDED, theirs)
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
            kept = f"ours is kept as {await self._keep_beside(write, write.value, deadline)}"
        log.warning("conflict: %s: somebody else %s; %s", write.ref, there, kept)
        self.conflicts[policy] += 1
        return UploadResult(UploadOutcome.KEPT_BESIDE, theirs)

    async def _keep_beside(self, write: Write, value: bytes, deadline: float) -> Ref:
        # Its name has the version in it: nothing else is there, unless from an attempt whose answer was lost.
        beside = name_beside(write.ref, write.version)
        await self._origin.put(beside, value, deadline, metadata=self._stamp(write, beside))
        return beside

    def _stamp(self, write: Write, ref: Ref) -> dict[str, str]:
        return stamp(write.version, ref, self._lineages.own)

    async def _attempt(
        self, write: Write, found: Info | None, deadline: float, *, conditional: bool
    ) -> UploadResult:
        """One write; `found` is what a look has just found. `conditional`: only if S3 holds the base."""
        base, keeps = write.belief.base, write.belief.keeps
        etag = base if conditional and isinstance(base, str) else ""
        if write.value is None:
            await self._origin.delete(write.ref, deadline, if_match=etag)
            return UploadResult(UploadOutcome.DELETED, ABSENT)
        metadata = {**self._stamp(write, write.ref), **expires_metadata(write.expires_at)}
        if keeps and found is not None:
            metadata = {**without_milenas(found.metadata), **metadata}
            if same_etag(found.etag, keeps) and self.conditions.copies:
                copy_etag = await self._copy_onto_itself(write, found, metadata, deadline, etag)
                if copy_etag:
                    # Another writer between the look and a copy whose condition the store ignores: its bytes were
                    # copied, and S3 holds them now.
                    theirs = not same_etag(copy_etag, found.etag) and same_etag(found.etag, etag_of(write.value))
                    return UploadResult(UploadOutcome.SUPERSEDED if theirs else UploadOutcome.UPLOADED, copy_etag)
        new_etag = await self._origin.put(
            write.ref,
            write.value,
            deadline,
            if_match=etag,
            # Without an ETag there is nothing to name; what was looked at exists, so it must not be a create.
            if_absent=conditional and not isinstance(base, str),
            metadata=metadata,
            attributes=found.attributes if keeps and found is not None else NO_ATTRIBUTES,
        )
        return UploadResult(UploadOutcome.UPLOADED, new_etag)

    async def _copy_onto_itself(
        self, write: Write, found: Info, metadata: Mapping[str, str], deadline: float, etag: str
    ) -> str:
        """The ETag of the object copied onto itself; "" if this store copies nothing."""
        try:
            return await self._origin.copy(
                write.ref, deadline, if_match=etag, metadata=metadata, attributes=found.attributes
            )
        except OriginFailure as failure:
            if failure.fault is not Fault.UNSUPPORTED:
                raise
            if self.conditions.unsupported(Capability.COPY):
                log.warning("this S3 has no CopyObject: tags are lost where nothing but an expiry time changes")
            return ""


def _condition(write: Write) -> Capability:
    """The condition that an attempt would carry."""
    if write.value is None:
        return Capability.DELETE
    return Capability.REPLACE if isinstance(write.belief.base, str) else Capability.CREATE


def _same(one: Base, other: Base) -> bool:
    if isinstance(one, str) and isinstance(other, str):
        return one == other or same_etag(one, other)
    return one is other


def _says_nothing(failure: OriginFailure) -> bool:
    """Whether this is the answer to a HEAD that refuses it without a reason, since it has no body.

    Then the write itself is sent, on its condition, and the answer to that says what S3 means.
    """
    return failure.fault in (Fault.DENIED, Fault.REJECTED) and failure.code in (
        failure.status,
        f"HTTP {failure.status}",
    )
