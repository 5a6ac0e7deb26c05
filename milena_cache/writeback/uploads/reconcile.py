"""Pure. What a write of ours still has to do, given what S3 turns out to hold.

A write is based on what S3 was known to hold before it, and goes there on the condition that this is still so. When
the condition does not hold, or it is not known whether an attempt happened, a look at the object decides:

    S3 holds                         base unknown        base known
    our version                      done                done
    a later version of the cluster   superseded          superseded
    an earlier version of it         write over it       write over it
    the base                         –                   write over it
    a greater version of another
      lineage                        conflict            conflict
    somebody else's other object     write over it       conflict
    nothing                          write               as the base says, or conflict

Versions are compared only with those of the writer's own cluster, see `lineage`. The objects of another lineage are
somebody else's: none of them is a reason to drop our write. One with a greater version was probably written after
our write was made, so it is a conflict also where the base is not known.

An object that has come to its own end is in the way of nothing: it does not exist, though S3 still holds it. Our
own version is in the way of a delete of ours only: of the same write, when the object came to its end before that
was known to have happened.

A lost answer of ours is no conflict: it shows as our own version. A delete leaves none; `or_absent` says that one
of ours may have been carried out over the base. `strict` is for a write whose caller named the base: then Milena's
own earlier versions, which the caller may not have seen, are a conflict too.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from milena_cache.objects.etags import same_etag
from milena_cache.objects.expiry import expiry_of, is_expired
from milena_cache.objects.object_store import Info, Ref
from milena_cache.objects.version import ABSENT, UNKNOWN, Base, Version, lineage_of, stamped

# A key may have so many bytes.
MAX_KEY_BYTES = 1024


class Verdict(Enum):
    """What to do: nothing (`DONE`, `SUPERSEDED`), write over the new `base`, or settle a `CONFLICT`."""

    DONE = "done"
    SUPERSEDED = "superseded"
    WRITE = "write"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """`base` is what S3 holds now."""

    verdict: Verdict
    base: Base


def reconcile(
    found: Info | None,
    ref: Ref,
    ours: Version,
    base: Base,
    *,
    deleting: bool,
    strict: bool,
    maybe_absent: bool,
    wall: float,
    kin: Collection[str],
) -> Reconciliation:
    """What to do about our write `ours` at `ref`, which was based on `base`, when S3 holds `found`.

    `wall` is the time of day, in seconds since 1970; `kin` are the lineages whose versions are comparable with
    `ours`.
    """
    if found is None:
        if deleting:
            return Reconciliation(Verdict.DONE, ABSENT)
        expected = base is ABSENT or base is UNKNOWN or maybe_absent
        return Reconciliation(Verdict.WRITE if expected else Verdict.CONFLICT, ABSENT)
    version = stamped(found.metadata, ref)
    foreign_greater = False
    if version is not None and lineage_of(found.metadata) not in kin:
        foreign_greater, version = version > ours, None
    if version is not None and version > ours:
        # Whoever named a condition is to learn that it came too late.
        return Reconciliation(Verdict.CONFLICT if strict else Verdict.SUPERSEDED, found.etag)
    if version == ours and not deleting:
        return Reconciliation(Verdict.DONE, found.etag)
    if is_expired(expiry_of(found.metadata, ref), wall):
        known = not (strict and isinstance(base, str))
    else:
        is_base = isinstance(base, str) and (base == found.etag or same_etag(base, found.etag))
        known = (base is UNKNOWN and not foreign_greater) or is_base or (version is not None and not strict)
    return Reconciliation(Verdict.WRITE if known else Verdict.CONFLICT, found.etag)


def name_beside(ref: Ref, version: Version) -> Ref:
    """Where our value goes when the other writer's stays at `ref`."""
    suffix = f".milena-conflict-{version}"
    room = MAX_KEY_BYTES - len(suffix)
    return Ref(ref.bucket, ref.key.encode()[:room].decode(errors="ignore") + suffix)
