"""Pure. What is believed about S3 under an acknowledged write that S3 does not have yet, and how that changes.

A belief never changes itself: each event gives another one, or the same one if the event says nothing new. So an
upload can go on from the belief that it began with while later writes of the key come, and what it learns reaches
the newest of them by `uploaded` or `upload_failed` when it ends.

    event                                           transition
    record found after a start                      recovered
    write appended behind one that is not durable   behind
    write takes the place of a dirty entry          replacing
    attempt without an answer, or answered 412      in_doubt
    a later write is in S3                          in_doubt
    look at the object                              observed
    S3 has the write, as its policy says            uploaded, kept_beside
    upload or write through failed                  upload_failed, write_through_failed
    slot known to have been this node's, or not     confirmed, unconfirmed
    operator tries a dead letter again              forced

Most writes are made where nothing is known of S3, or over a dirty entry of the same ownership. Those share one
belief with the write before them, so the way of a write creates none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from milena_cache.objects.version import UNKNOWN, Base

# As `owned_since`: older than every ownership. Another node may have written the object since.
UNCONFIRMED = -1


@dataclass(frozen=True, slots=True)
class S3Belief:
    """What S3 holds under one write.

    base: an ETag, ABSENT, or UNKNOWN.
    owned_since: the ring epoch since which no other node can have written the object; 0 where no ring is in use,
        UNCONFIRMED if S3 has to be asked.
    maybe_absent: S3 may as well hold nothing, because a delete of ours may have been carried out over `base`, or
        the object expires by itself.
    indeterminate: S3 may hold something else than `base`, for instance this write: an upload looks first.
    conditional: the write was acknowledged on the condition that S3 holds `base`; anything else is a conflict.
    keeps: the ETag of the object whose bytes are the write's value, if nothing but metadata changes; "" for a new
        object, which nothing is kept with.
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
        """Return the belief of a record found after a start.

        A delete that came over its base before the crash may have been carried out, and leaves nothing to tell it
        by. The record may have been overtaken, by this node or another, before it could be taken out.
        """
        return cls(base, UNCONFIRMED, maybe_absent=True, conditional=conditional, keeps=keeps)

    def behind(self, earlier: S3Belief, *, deleted: bool) -> S3Belief:
        """Return it for a write that becomes durable after that of `earlier`, which is a delete if `deleted`."""
        maybe_absent = self.maybe_absent or deleted or earlier.maybe_absent
        keeps = self.keeps if earlier.keeps else ""  # the earlier one is a new object, which S3 does not have
        if maybe_absent == self.maybe_absent and keeps == self.keeps:
            return self
        return replace(self, maybe_absent=maybe_absent, keeps=keeps)

    def replacing(self, earlier: S3Belief, *, deleted: bool, dead: bool) -> S3Belief:
        """Return the belief of a write, made as this one, that takes the place of a dirty entry of `earlier`.

        `deleted`, `dead`: that entry was a delete; was a dead letter. What S3 holds, and what an upload in flight
        may do to it, is the same under both. A condition was decided against the entry; what S3 holds under that
        is the entry's affair, unless S3 refused it.
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
        """Return it for when S3 may hold something else than `base`."""
        return self if self.indeterminate else replace(self, indeterminate=True)

    def observed(self, base: Base) -> S3Belief:
        """Return it after a look that has found `base`."""
        return replace(self, base=base, maybe_absent=False, indeterminate=False)

    def uploaded(self, base: Base, *, expires: bool) -> S3Belief:
        """Return what the newest write believes when S3 holds `base`, an upload of ours; `expires`: with an expiry.

        A later change of the expiry keeps what is stored with that object; a copy inside S3 may have given another
        ETag to the same bytes.
        """
        keeps = base if self.keeps and isinstance(base, str) else ""
        # Not `replace`, which takes five times as long, since this is on the way of each upload.
        return S3Belief(base, self.owned_since, expires, False, self.conditional, keeps)

    def kept_beside(self) -> S3Belief:
        """Return what the newest write believes when ours is stored beside another writer's, which stays."""
        return replace(self, indeterminate=False) if self.indeterminate else self

    def upload_failed(self, tried: S3Belief, *, deleted: bool) -> S3Belief:
        """Return what the newest write believes after an upload that ended with `tried`, of a delete if `deleted`.

        `tried` tells less than this belief in one case: a newer write that came over the delete has known from the
        start that it may find nothing.
        """
        maybe_absent = tried.maybe_absent or (self.maybe_absent and deleted)
        return replace(self, base=tried.base, maybe_absent=maybe_absent, indeterminate=tried.indeterminate)

    def write_through_failed(self, tried: S3Belief, *, deleted: bool) -> S3Belief:
        """Return what a dirty entry believes after a write through S3 that ended with `tried` without success."""
        maybe_absent = tried.maybe_absent or deleted
        return replace(self, base=tried.base, maybe_absent=maybe_absent, indeterminate=True)

    # ---- ownership, and an operator's word

    def confirmed(self, owned_since: int) -> S3Belief:
        """Return it when S3 has no later write of another node from before `owned_since`."""
        return replace(self, owned_since=owned_since)

    def unconfirmed(self) -> S3Belief:
        """Return it for when another node or program may have written the object."""
        return replace(self, owned_since=UNCONFIRMED)

    def forced(self, *, expired: bool) -> S3Belief:
        """Return it for a dead letter that is to go over whatever S3 holds; if `expired`, it goes over nothing."""
        return replace(self, base=self.base if expired else UNKNOWN, conditional=False)
