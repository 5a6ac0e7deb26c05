"""The tables of Ceph's s3-tests: which run, and what is found when they and outcomes differ. `suite` runs them."""

from __future__ import annotations

import re
from pathlib import Path

from tests.e2e.s3_clients.s3_tests import selection
from tests.e2e.s3_clients.s3_tests.differences import DIFFERENCES, MIN_PASSED, contradictions
from tests.e2e.s3_clients.s3_tests.suite import COMMIT, access_key, configuration

DOCUMENT = (Path(__file__).parents[4] / "docs" / "s3.md").read_text()
LISTED = [test for tests in DIFFERENCES.values() for test in tests]


def outcomes(**changed: str | None) -> dict[str, str | None]:
    """All that is listed fails, and enough others pass."""
    passed: dict[str, str | None] = {f"test{number}": None for number in range(MIN_PASSED)}
    return {**passed, **dict.fromkeys(LISTED, "an error"), **changed}


def test_what_is_not_listed_or_listed_in_vain_is_found() -> None:
    assert contradictions(outcomes()) == []
    assert contradictions(outcomes(test0="ClientError: 403")) == [
        "test0 fails: ClientError: 403",
        f"{MIN_PASSED - 1} tests pass; at least {MIN_PASSED} are to",
    ]
    assert contradictions(outcomes(**{LISTED[0]: None})) == [f"{LISTED[0]} passes, and is listed as a difference"]
    without = outcomes()
    del without[LISTED[0]]
    assert contradictions(without) == [f"{LISTED[0]} did not run, and is listed as a difference"]


def test_a_test_is_left_out_for_a_reason_and_none_that_is_listed() -> None:
    assert selection.reason_of("test_object_write_file", ()) is None
    assert selection.reason_of("test_object_write_file", ("auth_aws4", "encryption"))
    assert selection.reason_of("test_versioning_obj_list_marker", ())
    assert selection.reason_of("test_object_create_bad_ua_none_aws2[1]", ())
    assert selection.reason_of("test_multipart_copy_versioned", ())
    assert len(LISTED) == len(set(LISTED))
    assert [test for test in LISTED if selection.reason_of(f"test_{test}", ())] == []


def test_its_tables_are_documented() -> None:
    section = DOCUMENT.partition("## Ceph's s3-tests")[2].partition("\n## ")[0]
    for reason, tests in DIFFERENCES.items():
        (row,) = (line for line in section.splitlines() if line.startswith(f"| {reason} |"))
        assert sorted(re.findall(r"`(\w+)`", row.split("|")[2])) == sorted(tests)
    for reason in {*selection.MARKERS, *selection.NAMES}:
        assert f"| {reason} |" in section
    assert COMMIT[:7] in section
    assert str(MIN_PASSED) in section


def test_its_users_have_keys_that_the_endpoint_takes() -> None:
    key, secret = access_key("iam alt root")
    assert key in configuration("http://127.0.0.1:1")
    assert " " not in key
    assert len(secret) >= 16
