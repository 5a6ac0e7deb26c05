"""Coordination. Uploads one write to S3 so that it cannot overwrite a later one.

Every request is conditional on the object that S3 is believed to hold. The interleaving that this avoids: (1) an
upload times out on our side, but S3 still has the request; (2) a later write of the key is uploaded; (3) S3 carries
out the first request, over the later write. With `If-Match` or `If-None-Match` the first request gets a 412 in
step 3. Where S3's object is not known, a put tries to create it (`If-None-Match: *`); for a large value, a delete,
and after a lost reply, the upload begins with a look: a HEAD, whose result `reconcile` interprets.

Where the store does not honour conditions (`conditions`), each write begins with a look, and only the node's lock
on the key keeps other writes away. If S3 denies `If-Match` although a look before and a look after the 412 show the
object unchanged, the write is sent without a condition. Unless others change the object meanwhile, an upload takes
at most MAX_REQUESTS requests.

A write that changes only metadata (`keeps`) is a copy of the object onto itself, inside S3, that repeats the
attributes and metadata that S3 stores with it.

Each step has one attempt: waiting and retrying after a transient failure are left to the caller.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, NamedTuple

from milena_cache.objects.etags import same_etag
from milena_cache.objects.expiry import NEVER, expires_metadata, without_milenas
from milena_cache.objects.lineage import Lineages
from milena_cache.objects.object_store import NO_ATTRIBUTES, NO_METADATA, Fault, Info, OriginFailure, Ref
from milena_cache.objects.version import ABSENT, UNKNOWN, Base, Version, lineage_of, stamp
from milena_cache.origin.conditions import Capability, Conditions
from milena_cache.origin.requests import Origin
from milena_cache.writeback.uploads.reconcile import Verdict, name_beside, reconcile
from milena_cache.writeback.uploads.s3_belief import S3Belief
from milena_common.api.etags import etag_of
from milena_common.runtime.log_limiter import LogLimiter

log = logging.getLogger(__name__)

# Values above this many bytes: a HEAD first is cheaper than a value that is sent and denied.
LOOK_FIRST_BYTES = 2**20
# Others may change the object between our look and our write; after this many rounds the upload fails as
# contention.
MAX_ROUNDS = 5
# Of an upload that no other writer disturbs: denied, look, denied, look, written without a condition. A look at an
# absent object takes `origin/s3_store` a GET in addition to the HEAD.
MAX_REQUESTS = 5

Policy = Literal["overwrite", "fail", "keep-both"]
POLICIES: tuple[Policy, ...] = ("overwrite", "fail", "keep-both")


class UploadOutcome(Enum):
    """How an upload ended.

    UPLOADED, DELETED: S3 has carried out the write.
    ALREADY: a look found that S3 had it before.
    SUPERSEDED: S3 has a later write, or the write may not replace another writer's object; ours was dropped.
    KEPT_BESIDE: another writer's object stays, and ours, unless it is a delete, is stored under another key.
    """

    UPLOADED = "uploaded"
    DELETED = "deleted"
    ALREADY = "already"
    SUPERSEDED = "superseded"
    KEPT_BESIDE = "conflict"


class UploadResult(NamedTuple):
    """The outcome, and the ETag that S3 holds now, or ABSENT: ours, unless it is SUPERSEDED or KEPT_BESIDE."""

    outcome: UploadOutcome
    base: Base


@dataclass(slots=True)
class Write:
    """A write that is being uploaded.

    ref: the bucket and key in S3.
    version: the version that S3 stores as metadata.
    value: the bytes; None for a delete.
    belief: what S3 is believed to hold; the upload updates it after each step, also when it fails.
    policy: what to do on a conflict; None: any object may be overwritten.
    strict: True if its caller named the base: the write is rejected if S3 holds another object.
    expires_at: when the object expires, in seconds since 1970.
    expired: True for a delete of an object that expired before it was in S3; another writer's object, written since
        the base, is not deleted by it.
    metadata, attributes: what S3 is to keep with it, besides what Milena needs.
    """

    ref: Ref
    version: Version
    value: bytes | None
    belief: S3Belief
    policy: Policy | None
    strict: bool = False
    expires_at: float = NEVER
    expired: bool = False
    metadata: Mapping[str, str] = field(default_factory=lambda: NO_METADATA)
    attributes: Mapping[str, Any] = field(default_factory=lambda: NO_ATTRIBUTES)


class Conflict(Exception):
    """Another writer changed the object, and the write's policy is not to overwrite it."""


class Uploader:
    """Uploads to S3 through `origin`, with versions of the cluster of `lineages`. Counts conflicts by policy."""

    def __init__(self, origin: Origin, conditions: Conditions, lineages: Lineages) -> None:
        self.conflicts = dict.fromkeys(POLICIES, 0)
        self.conditions = conditions
        self._origin = origin
        self._lineages = lineages
        self._log = LogLimiter()

    async def upload(
        self, write: Write, deadline: float, may_send: Callable[[], bool] = lambda: True
    ) -> UploadResult:
        """Upload `write`. Raises OriginFailure or Conflict.

        `deadline`: monotonic seconds after which no request begins. `may_send`: asked just before S3 is changed; if
        it returns False, nothing is sent, and the failure is a transient one.
        """
        # The base that the last look of this upload found, and the base that the look before a denied attempt
        # found.
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
                # Look, 412, look: unchanged. The object is what the condition names, so another 412 would not mean
                # that it has changed: this store compares ETags wrongly.
                sends = False
                self._does_not_hold(condition, write)
            if not may_send():
                raise OriginFailure(Fault.BUSY, "put", write.ref, "another node may own the key now", "local")
            try:
                result = await self._attempt(write, found, deadline, conditional=sends)
            except OriginFailure as failure:
                if failure.fault is Fault.CHANGED:
                    if rejected is not None:
                        raise rejected from None  # S3 has an object that we may not HEAD
                    write.belief = write.belief.in_doubt()
                    denied, looked = looked, UNKNOWN
                elif failure.fault is Fault.UNSUPPORTED and sends:
                    if self.conditions.unsupported(condition):
                        log.warning(
                            "this S3 has no conditional writes: changes by others may be overwritten (%s: 501)",
                            condition.value,
                        )
                else:
                    # After a 5xx most often nothing has been written; if it has, the next attempt's condition
                    # fails.
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
        """Return True if an attempt has a condition that the store honours."""
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
        """Return the result of `write` if S3 holds `found`; None if it is to be sent, with that as its new base."""
        belief, late, lineages = write.belief, write.belief.late, self._lineages
        if found is not None and lineages.undecided(lineage_of(found.metadata), late=late):
            text = "another lineage wrote the object; its version is comparable only once the ring is known"
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
        """Apply the conflict policy: return the result, or None to overwrite. Raises Conflict."""
        if write.expired:
            return UploadResult(UploadOutcome.SUPERSEDED, theirs)
        there = "deleted it" if theirs is ABSENT else f"wrote it (ETag {theirs})"
        if write.strict:
            raise Conflict(f"another writer {there}")
        policy = write.policy
        assert policy is not None, "without a policy everything may be overwritten"
        if policy == "fail":
            self.conflicts[policy] += 1
            raise Conflict(f"conflict: another writer {there} while our write waited")
        if policy == "overwrite" or theirs is ABSENT:
            log.warning("conflict: %s: another writer %s; overwritten with %s", write.ref, there, write.version)
            self.conflicts[policy] += 1
            return None
        if write.value is None:
            kept = "theirs is kept, ours was a delete"
        else:
            kept = f"ours is kept as {await self._keep_beside(write, write.value, deadline)}"
        log.warning("conflict: %s: another writer %s; %s", write.ref, there, kept)
        self.conflicts[policy] += 1
        return UploadResult(UploadOutcome.KEPT_BESIDE, theirs)

    async def _keep_beside(self, write: Write, value: bytes, deadline: float) -> Ref:
        # The name contains the version, so the only object that can be there is ours, of an attempt whose reply was
        # lost.
        beside = name_beside(write.ref, write.version)
        await self._origin.put(beside, value, deadline, metadata=self._stamp(write, beside))
        return beside

    def _stamp(self, write: Write, ref: Ref) -> dict[str, str]:
        return stamp(write.version, ref, self._lineages.own)

    async def _attempt(
        self, write: Write, found: Info | None, deadline: float, *, conditional: bool
    ) -> UploadResult:
        """Send the write once; `found` is what a look has just found. `conditional`: only if S3 holds the base."""
        base, keeps = write.belief.base, write.belief.keeps
        etag = base if conditional and isinstance(base, str) else ""
        if write.value is None:
            await self._origin.delete(write.ref, deadline, if_match=etag)
            return UploadResult(UploadOutcome.DELETED, ABSENT)
        own = {**self._stamp(write, write.ref), **expires_metadata(write.expires_at)}
        metadata = {**write.metadata, **own}
        if keeps and found is not None:
            metadata = {**without_milenas(found.metadata), **metadata}
            if same_etag(found.etag, keeps) and self.conditions.copies:
                copy_etag = await self._copy_onto_itself(write, found, metadata, deadline, etag)
                if copy_etag:
                    # If the store ignores the condition of a copy: (1) the look finds our bytes; (2) another writer
                    # replaces them; (3) the copy copies that writer's bytes. S3 then holds their bytes, not ours.
                    theirs = not same_etag(copy_etag, found.etag) and same_etag(found.etag, etag_of(write.value))
                    return UploadResult(UploadOutcome.SUPERSEDED if theirs else UploadOutcome.UPLOADED, copy_etag)
        new_etag = await self._origin.put(
            write.ref,
            write.value,
            deadline,
            if_match=etag,
            # Without an ETag as the base the only possible condition is that the object does not exist.
            if_absent=conditional and not isinstance(base, str),
            metadata=metadata,
            attributes=found.attributes if keeps and found is not None else write.attributes,
        )
        return UploadResult(UploadOutcome.UPLOADED, new_etag)

    async def _copy_onto_itself(
        self, write: Write, found: Info, metadata: Mapping[str, str], deadline: float, etag: str
    ) -> str:
        """Copy the object onto itself; return its ETag, "" if the store has no CopyObject."""
        try:
            return await self._origin.copy(
                write.ref, deadline, if_match=etag, metadata=metadata, attributes=found.attributes
            )
        except OriginFailure as failure:
            if failure.fault is not Fault.UNSUPPORTED:
                raise
            if self.conditions.unsupported(Capability.COPY):
                log.warning("this S3 has no CopyObject: a write that changes only an expiry time loses the tags")
            return ""


def _condition(write: Write) -> Capability:
    """Return the kind of condition that an attempt of `write` would have."""
    if write.value is None:
        return Capability.DELETE
    return Capability.REPLACE if isinstance(write.belief.base, str) else Capability.CREATE


def _same(one: Base, other: Base) -> bool:
    if isinstance(one, str) and isinstance(other, str):
        return one == other or same_etag(one, other)
    return one is other


def _says_nothing(failure: OriginFailure) -> bool:
    """Return True for a HEAD that S3 denied without an error code, since a reply to HEAD has no body.

    Then the write itself is sent, with its condition, and its reply has the error code.
    """
    return failure.fault in (Fault.DENIED, Fault.REJECTED) and failure.code in (
        failure.status,
        f"HTTP {failure.status}",
    )
