"""Every cell of the table that says what a write still has to do, and the name beside a conflicting object."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_cache.objects.expiry import NEVER, expires_metadata
from milena_cache.objects.object_store import Info, Ref
from milena_cache.objects.version import ABSENT, UNKNOWN, Base, Version, stamp
from milena_cache.writeback.uploads.reconcile import MAX_KEY_BYTES, Reconciliation, Verdict, name_beside, reconcile

REF = Ref("bucket", "k")
OURS = Version(5, 7)
NOW = 1_700_000_000.0
BASE, OTHER = '"base"', '"other"'
LINEAGE, ANOTHER = "0123456789abcdef", "fedcba9876543210"
KIN = (LINEAGE,)


def there(
    etag: str,
    version: Version | None,
    written_to: Ref = REF,
    expires_at: float = NEVER,
    lineage: str = LINEAGE,
) -> Info:
    """An object in S3; without `version`, one that another writer wrote."""
    own = {**stamp(version, written_to, lineage), **expires_metadata(expires_at)} if version else {}
    return Info(REF.key, 1, etag, 0.0, own)


FOUND = {
    "ours": there(OTHER, OURS),
    "ours, the base": there(BASE, OURS),
    "later": there(OTHER, Version(5, 8)),
    "later epoch": there(OTHER, Version(6, 1)),
    "later, the base": there(BASE, Version(6, 1)),
    "earlier": there(OTHER, Version(5, 6)),
    "earlier epoch": there(OTHER, Version(4, 99)),
    "earlier, the base": there(BASE, Version(4, 99)),
    "the base": there(BASE, None),
    "foreign": there(OTHER, None),
    "foreign, a copy of ours": there(OTHER, OURS, Ref("bucket", "copied-from")),
    "foreign, a copy of a later": there(OTHER, Version(9, 9), Ref("elsewhere", "k")),
    "nothing": None,
    "earlier, to end": there(OTHER, Version(5, 6), expires_at=NOW + 0.001),
    "ours, ended": there(OTHER, OURS, expires_at=NOW),
    "later, ended": there(OTHER, Version(5, 8), expires_at=NOW),
    "earlier, ended": there(OTHER, Version(5, 6), expires_at=NOW),
    "earlier, the base, ended": there(BASE, Version(5, 6), expires_at=NOW - 10**6),
    "foreign, a copy of what has ended": there(OTHER, OURS, Ref("bucket", "copied-from"), NOW),
    "another cluster's, the same version": there(OTHER, OURS, lineage=ANOTHER),
    "another cluster's, a lesser version": there(OTHER, Version(5, 6), lineage=ANOTHER),
    "another cluster's, a greater version": there(OTHER, Version(6, 1), lineage=ANOTHER),
    "another cluster's, a greater version, the base": there(BASE, Version(6, 1), lineage=ANOTHER),
    "another cluster's, a greater version, ended": there(OTHER, Version(6, 1), expires_at=NOW, lineage=ANOTHER),
    "of no lineage, a lesser version": there(OTHER, Version(5, 6), lineage=""),
    "of no lineage, a greater version": there(OTHER, Version(5, 8), lineage=""),
    "of no lineage, a greater version, the base": there(BASE, Version(5, 8), lineage=""),
}

# By what S3 holds: what to do when the base is UNKNOWN, ABSENT, BASE; lower case: also if strict.
# d: done, but for a delete as with an earlier one, l: superseded, but if strict a conflict, w: write, c: conflict,
# e: write, but if strict a conflict.
TABLE = {
    "ours": "ddd",
    "ours, the base": "ddd",
    "later": "lll",
    "later epoch": "lll",
    "later, the base": "lll",
    "earlier": "wee",
    "earlier epoch": "wee",
    "earlier, the base": "wew",
    "the base": "wcw",
    "foreign": "wcc",
    "foreign, a copy of ours": "wcc",
    "foreign, a copy of a later": "wcc",
    "nothing": "wwc",
    "earlier, to end": "wee",
    "ours, ended": "ddd",
    "later, ended": "lll",
    "earlier, ended": "wwe",
    "earlier, the base, ended": "wwe",
    "foreign, a copy of what has ended": "wcc",
    "another cluster's, the same version": "wcc",
    "another cluster's, a lesser version": "wcc",
    "another cluster's, a greater version": "ccc",
    "another cluster's, a greater version, the base": "ccw",
    "another cluster's, a greater version, ended": "wwe",
    "of no lineage, a lesser version": "wcc",
    "of no lineage, a greater version": "ccc",
    "of no lineage, a greater version, the base": "ccw",
}
LETTERS = {
    "d": (Verdict.DONE, Verdict.DONE),
    "l": (Verdict.SUPERSEDED, Verdict.CONFLICT),
    "w": (Verdict.WRITE, Verdict.WRITE),
    "c": (Verdict.CONFLICT, Verdict.CONFLICT),
    "e": (Verdict.WRITE, Verdict.CONFLICT),
}
BASES: tuple[Base, ...] = (UNKNOWN, ABSENT, BASE)


def test_the_table_is_whole() -> None:
    assert TABLE.keys() == FOUND.keys()
    assert {len(row) for row in TABLE.values()} == {len(BASES)}


@pytest.mark.parametrize("strict", [False, True], ids=["", "strict"])
@pytest.mark.parametrize("column", range(len(BASES)), ids=["unknown", "absent", "known"])
@pytest.mark.parametrize("found", TABLE)
def test_what_a_write_still_has_to_do(found: str, column: int, strict: bool) -> None:
    info = FOUND[found]
    letter = LETTERS[TABLE[found][column]][strict]
    for deleting, maybe_absent in product((False, True), repeat=2):
        verdict = letter
        if found.startswith("ours") and deleting:
            earlier = TABLE[found.replace("ours", "earlier")][column]
            verdict = LETTERS[earlier][strict]
        elif info is None and deleting:
            verdict = Verdict.DONE  # by any writer
        elif info is None and maybe_absent:
            verdict = Verdict.WRITE  # it may have been our delete
        reconciled = reconcile(
            info,
            REF,
            OURS,
            BASES[column],
            deleting=deleting,
            strict=strict,
            maybe_absent=maybe_absent,
            wall=NOW,
            kin=KIN,
        )
        assert reconciled == Reconciliation(verdict, info.etag if info else ABSENT)


@pytest.mark.parametrize("lineage", [ANOTHER, ""])
@pytest.mark.parametrize("base", BASES)
def test_no_version_of_another_lineage_is_a_reason_to_drop_a_write(lineage: str, base: Base) -> None:
    for version in (Version(0, 0), OURS, Version(2**40, 2**50)):
        found = there(OTHER, version, lineage=lineage)
        reconciled = reconcile(
            found, REF, OURS, base, deleting=False, strict=False, maybe_absent=False, wall=NOW, kin=KIN
        )
        assert reconciled.verdict in (Verdict.WRITE, Verdict.CONFLICT)


def test_all_lineages_of_the_cluster_have_one_order() -> None:
    found = there(OTHER, Version(5, 8), lineage=ANOTHER)
    reconciled = reconcile(
        found, REF, OURS, BASE, deleting=False, strict=False, maybe_absent=False, wall=NOW, kin=(LINEAGE, ANOTHER)
    )
    assert reconciled.verdict is Verdict.SUPERSEDED


def test_the_name_beside_says_which_write_it_is() -> None:
    assert name_beside(Ref("b", "a/b.txt"), Version(3, 14)) == Ref("b", "a/b.txt.milena-conflict-3-14")


versions = st.builds(Version, st.integers(0, 2**63), st.integers(0, 2**63))
keys = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(
    lambda key: len(key.encode()) <= MAX_KEY_BYTES
)


@given(keys, versions)
def test_a_short_key_is_whole_in_the_name_beside(key: str, version: Version) -> None:
    beside = name_beside(Ref("b", key), version)
    suffix = f".milena-conflict-{version}"
    assert beside.key.endswith(suffix)
    if len((key + suffix).encode()) <= MAX_KEY_BYTES:
        assert beside == Ref("b", key + suffix)


@pytest.mark.parametrize("version", [Version(1, 1), Version(1_700_000_000_000, 1_700_000_000_000_000)])
@pytest.mark.parametrize("character", ["x", "ü", "€", "🙂"])
@pytest.mark.parametrize("shift", range(4))
def test_a_long_key_is_cut_between_characters(character: str, shift: int, version: Version) -> None:
    key = "x" * shift + character * ((MAX_KEY_BYTES - shift) // len(character.encode()))
    beside = name_beside(Ref("b", key), version).key
    suffix = f".milena-conflict-{version}"
    assert beside.endswith(suffix)
    assert key.startswith(beside.removesuffix(suffix))
    size = len(beside.encode())
    assert MAX_KEY_BYTES - len(character.encode()) < size <= MAX_KEY_BYTES


def test_a_key_that_just_fits_is_not_cut() -> None:
    suffix = f".milena-conflict-{OURS}"
    for length in (MAX_KEY_BYTES - len(suffix), MAX_KEY_BYTES - len(suffix) + 1):
        beside = name_beside(Ref("b", "x" * length), OURS).key
        assert len(beside) == MAX_KEY_BYTES


def test_two_writes_have_two_names_beside_also_for_a_cut_key() -> None:
    ref = Ref("b", "x" * MAX_KEY_BYTES)
    assert name_beside(ref, Version(1, 2)) != name_beside(ref, Version(1, 3))
