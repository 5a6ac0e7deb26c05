"""Pure. What is believed about S3 under an acknowledged write that S3 does not have yet, and how events change it.

A belief is immutable: each transition returns another one, or the same one if the event adds nothing. So an upload
continues from the belief that it began with while later writes of the key arrive, and its findings reach the newest
of them by `uploaded` or `upload_failed` when it ends. If the upload and later writes changed one shared object, a
write that arrives after the HEAD would be sent with the condition of the write before it.

    event                                           transition
    record found after a start                      recovered
    write appended behind one that is not durable   behind
    write takes the place of a dirty entry          replacing
    attempt without a reply, or replied 412         in_doubt
    a later write is in S3                          in_doubt
    HEAD of the object                              observed
    S3 has the write, by its conflict policy        uploaded, kept_beside
    upload or write through failed                  upload_failed, write_through_failed
    ownership revalidated, or in doubt              confirmed, unconfirmed
    operator requeues a dead letter                 forced

Most writes are made where nothing is known of S3, or over a dirty entry of the same ownership. Those share one
belief with the write before them, so most writes create no belief.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from milena_cache.objects.version import UNKNOWN, Base

# A value of `owned_since` that is older than every ring epoch: another node may have written the object since.
UNCONFIRMED = -1


@dataclass(frozen=True, slots=True)
class S3Belief:
    """What S3 is believed to hold under one write.

    base: the ETag of S3's object, ABSENT, or UNKNOWN.
    owned_since: the ring epoch since which no other node can have written the object; 0 where no ring is in use,
        UNCONFIRMED if S3 must be asked before the entry is served.
    maybe_absent: S3 may hold nothing instead of `base`, because a delete of ours may have been carried out, or
        because the object expires.
    indeterminate: S3 may hold another object than `base`, for instance this write: an upload begins with a HEAD.
    conditional: the write was acknowledged on the condition that S3 holds `base`; any other object is a conflict.
    keeps: the ETag of the object whose bytes are the write's value, if only metadata changes; "" for a new object,
        whose upload preserves none of S3's attributes.
    """

    base: Base
    owned_since: int = 0
    maybe_absent: bool = False
    indeterminate: bool = False
    conditional: bool = False
    keeps: str = ""

    @property
    def late(self) -> bool:
        """True if the write is of an earlier start or ownership: another node may have written the object since."""
        return self.owned_since < 0

    # ---- a new write

    @classmethod
    def recovered(cls, base: Base, *, conditional: bool, keeps: str) -> S3Belief:
        """Return the belief of a record that is found after a start.

        A delete over its base may have been carried out before the crash, and leaves no version in S3 that would
        show it: hence `maybe_absent`. A later write, of this node or another, may have reached S3 before the record
        was removed: hence UNCONFIRMED.
        """
        return cls(base, UNCONFIRMED, maybe_absent=True, conditional=conditional, keeps=keeps)

    def behind(self, earlier: S3Belief, *, deleted: bool) -> S3Belief:
        """Return this belief for a write that becomes durable after that of `earlier`, a delete if `deleted`."""
        maybe_absent = self.maybe_absent or deleted or earlier.maybe_absent
        keeps = self.keeps if earlier.keeps else ""  # the earlier write is a new object, which S3 does not have
        if maybe_absent == self.maybe_absent and keeps == self.keeps:
            return self
        return replace(self, maybe_absent=maybe_absent, keeps=keeps)

    def replacing(self, earlier: S3Belief, *, deleted: bool, dead: bool) -> S3Belief:
        """Return the belief of a write that replaces a dirty entry, whose belief is `earlier`.

        `deleted`, `dead`: the replaced entry was a delete; was a dead letter. S3's object, and what an upload in
        flight may do to it, are the same under both entries, so `base` and `indeterminate` are those of `earlier`.
        The condition of the new write was checked against the dirty entry and not against S3, so it does not apply
        to S3's object, unless the entry had a condition too, or was a dead letter.
        """
        maybe_absent = earlier.maybe_absent or deleted
        conditional = self.conditional and (earlier.conditional or dead)
        keeps = self.keeps if earlier.keeps else ""
        if (
            self.owned_since == earlier.owned_since
            and maybe_absent == earlier.maybe_absent
            and conditional == earlier.conditional
            and keeps == earlier.keeps
        ):
            return earlier
        return S3Belief(earlier.base, self.owned_since, maybe_absent, earlier.indeterminate, conditional, keeps)

    # ---- an upload

    def in_doubt(self) -> S3Belief:
        """Return this belief with the doubt that S3 may hold another object than `base`."""
        return self if self.indeterminate else replace(self, indeterminate=True)

    def observed(self, base: Base) -> S3Belief:
        """Return this belief after a HEAD that found `base`."""
        return replace(self, base=base, maybe_absent=False, indeterminate=False)

    def uploaded(self, base: Base, *, expires: bool) -> S3Belief:
        """Return the newest write's belief after an upload of ours, now `base`; `expires`: it has an expiry.

        `keeps` becomes the new ETag: a later change of the expiry preserves the attributes of that object, and a
        copy inside S3 may have given another ETag to the same bytes.
        """
        keeps = base if self.keeps and isinstance(base, str) else ""
        # Not `replace`, which takes five times as long, since this is on the way of each upload.
        return S3Belief(base, self.owned_since, expires, False, self.conditional, keeps)

    def kept_beside(self) -> S3Belief:
        """Return the newest write's belief after ours was stored beside another writer's object, which stays."""
        return replace(self, indeterminate=False) if self.indeterminate else self

    def upload_failed(self, tried: S3Belief, *, deleted: bool) -> S3Belief:
        """Return the newest write's belief after a failed upload with the belief `tried`, of a delete if `deleted`.

        The base and the doubt of `tried` are later than those of this belief. One thing must not be lost: a write
        that replaced the delete while it was in flight has `maybe_absent`, which `tried` has not.
        """
        maybe_absent = tried.maybe_absent or (self.maybe_absent and deleted)
        return replace(self, base=tried.base, maybe_absent=maybe_absent, indeterminate=tried.indeterminate)

    def write_through_failed(self, tried: S3Belief, *, deleted: bool) -> S3Belief:
        """Return a dirty entry's belief after a failed write through to S3 with the belief `tried`."""
        maybe_absent = tried.maybe_absent or deleted
        return replace(self, base=tried.base, maybe_absent=maybe_absent, indeterminate=True)

    # ---- ownership, and an operator's retry

    def confirmed(self, owned_since: int) -> S3Belief:
        """Return this belief when S3 has no later write of another node from before `owned_since`."""
        return replace(self, owned_since=owned_since)

    def unconfirmed(self) -> S3Belief:
        """Return this belief when another node or program may have written the object."""
        return replace(self, owned_since=UNCONFIRMED)

    def forced(self, *, expired: bool) -> S3Belief:
        """Return the belief of a dead letter that overwrites S3's object unconditionally.

        If it has `expired`, it keeps its base: the delete that it has become must not remove another object.
        """
        return replace(self, base=self.base if expired else UNKNOWN, conditional=False)
