"""The order of versions, and what metadata makes an object one that Milena wrote."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_cache.objects.object_store import Ref
from milena_cache.objects.version import VERSION, WRITTEN_AS, Version, stamp, stamped

REF = Ref("bucket", "a/b")
versions = st.builds(Version, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
refs = st.builds(Ref, st.sampled_from(["bucket", "other"]), st.text(st.characters(exclude_categories=["Cs"])))


def test_the_epoch_counts_before_the_number() -> None:
    order = [Version(1, 9), Version(1, 10), Version(2, 1), Version(10, 0)]
    assert sorted(reversed(order)) == order
    assert str(Version(3, 14)) == "3-14"


@given(versions, refs, refs)
def test_an_object_has_its_version_where_it_was_written_and_nowhere_else(
    version: Version, ref: Ref, other: Ref
) -> None:
    metadata = stamp(version, ref)
    assert stamped(metadata, ref) == version
    if other != ref:
        assert stamped(metadata, other) is None


@pytest.mark.parametrize(
    "ref", [Ref("bucket", "A/b"), Ref("bucket", "a/b/"), Ref("bucket", "/a/b"), Ref("other", "a/b")]
)
def test_a_copy_made_by_another_tool_is_not_milenas(ref: Ref) -> None:
    assert stamped(stamp(Version(1, 2), REF), ref) is None


@given(versions, refs)
def test_the_metadata_can_be_sent_in_headers_whatever_the_key_is(version: Version, ref: Ref) -> None:
    for name, text in stamp(version, ref).items():
        assert name == name.lower()
        assert (name + text).isascii()
        assert (name + text).isprintable()
        assert len(text) <= 64


def test_the_version_is_readable_for_people() -> None:
    assert stamp(Version(3, 14), REF)["milena-version"] == "3-14"


def test_what_was_stamped_is_still_known() -> None:
    # Objects in people's buckets carry this.
    assert stamp(Version(3, 14), REF) == {VERSION: "3-14", WRITTEN_AS: "1d397d61efc35f27"}


def test_other_metadata_does_no_harm() -> None:
    assert stamped({"owner": "x", **stamp(Version(1, 2), REF), "": ""}, REF) == Version(1, 2)


@pytest.mark.parametrize("lost", [VERSION, WRITTEN_AS])
def test_half_of_it_is_nothing(lost: str) -> None:
    metadata = stamp(Version(1, 2), REF)
    del metadata[lost]
    assert stamped(metadata, REF) is None
    assert stamped({}, REF) is None


@pytest.mark.parametrize(
    "text",
    ["", "-", "1", "1-", "-1", "1-2-3", "--1", "1--2", "a-b", "0x1-2", "+1-2", "1-+2", " 1-2", "1-2 ", "1_0-2",
     "1.0-2", "1-2\n", "²-1", "1-²", "１-２", "٣-1", "1-٣", "None", "1−2"],
)  # fmt: skip
def test_a_malformed_version_is_not_milenas(text: str) -> None:
    assert stamped({**stamp(Version(1, 2), REF), VERSION: text}, REF) is None


@pytest.mark.parametrize("name", ["", "0", "g" * 16, "0" * 16])
def test_a_malformed_name_is_not_milenas(name: str) -> None:
    assert stamped({**stamp(Version(1, 2), REF), WRITTEN_AS: name}, REF) is None


@given(st.text(max_size=20), st.text(max_size=20))
def test_whatever_the_metadata_is_it_can_be_looked_at(version: str, name: str) -> None:
    assert stamped({VERSION: version, WRITTEN_AS: name}, REF) is None
    found = stamped({**stamp(Version(1, 2), REF), VERSION: version}, REF)
    assert found is None or version.isascii()
