"""Pure. Reconciliation: decides what a write still has to do, given the object that a HEAD found in S3.

A write has a base, the object that S3 was known to hold before it, and is sent on the condition that S3 still holds
the base. When the condition fails (412), or the reply of an attempt was lost, a HEAD of the object decides:

    S3 holds                         base unknown        base known
    our version                      done                done
    a later version of the cluster   superseded          superseded
    an earlier version of it         write over it       write over it
    the base                         –                   write over it
    a greater version of another
      lineage                        conflict            conflict
    another writer's other object    write over it       conflict
    nothing                          write               write if the base allows it, else conflict

Versions are compared only within the writer's own cluster, see `objects/lineage`. An object of another lineage was
written by another cluster or program, so it never supersedes our write. If its version is greater, it was probably
written after our write was made: it is a conflict even where the base is not known.

An expired object conflicts with no write: it does not exist, although S3 still holds it. If a delete finds its own
version in S3, the entry was a put that expired after an attempt of it reached S3: the object is still to be
deleted.

A lost reply is not a conflict: the HEAD finds our own version. A delete leaves no version; `maybe_absent` says that
a delete of ours may have been carried out over the base, and then "nothing" is no conflict. `strict` is for a write
whose caller named the base: then Milena's own other versions, which the caller may not have seen, are a conflict
    too.

The obvious shortcut, to take every 412 for a conflict, is wrong: after a timeout the first attempt may have been
carried out, and the 412 to the second is caused by our own object.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from milena_cache.objects.etags import same_etag
from milena_cache.objects.expiry import expiry_of, is_expired
from milena_cache.objects.object_store import Info, Ref
from milena_cache.objects.version import ABSENT, UNKNOWN, Base, Version, lineage_of, stamped

# S3's limit for the UTF-8 bytes of a key.
MAX_KEY_BYTES = 1024


class Verdict(Enum):
    """What to do: nothing (DONE, SUPERSEDED), write over the new base (WRITE), or apply the policy (CONFLICT)."""

    DONE = "done"
    SUPERSEDED = "superseded"
    WRITE = "write"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """The verdict, and the `base` that S3 holds now: an ETag, or ABSENT."""

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
    """Decide about our write `ours` at `ref`, which was based on `base`, when S3 holds `found`.

    found: the HEAD's result; None if the object does not exist.
    deleting: our write is a delete.
    strict: its caller named the base.
    maybe_absent: a delete of ours may have been carried out over the base.
    wall: the time of day, in seconds since 1970.
    kin: the lineages whose versions are comparable with `ours`.
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
        # A caller that named a condition gets an error: its condition no longer holds.
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
    """Return where our value is stored when the other writer's object stays at `ref` (WRITE_CONFLICT=keep-both)."""
    suffix = f".milena-conflict-{version}"
    room = MAX_KEY_BYTES - len(suffix)
    return Ref(ref.bucket, ref.key.encode()[:room].decode(errors="ignore") + suffix)
