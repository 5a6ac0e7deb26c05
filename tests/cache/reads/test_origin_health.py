"""When S3 as a whole is believed to fail, and when only one key."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from milena_cache.reads.origin_health import (
    ANNOUNCE_SECONDS,
    KEY_FAILURE_SECONDS,
    MAX_FAILING_KEYS,
    PROBE_SECONDS,
    SUSPECT_KEYS,
    OriginHealth,
)


def suspect_since(now: float) -> OriginHealth:
    health = OriginHealth()
    for number in range(SUSPECT_KEYS):
        health.failed(b"%d" % number, now)
    assert health.suspect
    return health


def test_one_key_that_fails_again_and_again_makes_only_itself_suspect() -> None:
    health = OriginHealth()
    for second in range(100):
        assert not health.failed(b"bad", float(second))
    assert not health.suspect
    assert health.expects_failure(b"bad", 100.0)
    assert not health.expects_failure(b"good", 100.0)


def test_different_keys_in_a_row_make_s3_suspect_and_a_success_between_them_does_not() -> None:
    health = OriginHealth()
    health.failed(b"a", 0.0)
    health.failed(b"b", 0.0)
    health.succeeded(b"x")
    health.failed(b"c", 0.0)
    assert not health.suspect
    health.failed(b"a", 0.0)
    assert health.failed(b"b", 0.0), "the third different key"
    assert health.expects_failure(b"never asked for", 0.0)


def test_two_keys_that_found_no_connection_are_enough() -> None:
    health = OriginHealth()
    health.failed(b"a", 0.0, unconnected=True)
    health.failed(b"a", 0.0, unconnected=True)
    assert not health.suspect
    assert health.failed(b"b", 0.0, unconnected=True)
    assert health.suspect


def test_one_success_heals_all_but_the_keys_that_failed_by_themselves() -> None:
    health = suspect_since(0.0)
    assert health.succeeded(b"x")
    assert not health.suspect
    assert health.expects_failure(b"0", 1.0)
    health.succeeded(b"0")
    assert not health.expects_failure(b"0", 1.0)


def test_the_failure_of_a_key_is_forgotten_after_a_while() -> None:
    health = OriginHealth()
    health.failed(b"k", 0.0)
    assert health.expects_failure(b"k", KEY_FAILURE_SECONDS - 0.1)
    assert not health.expects_failure(b"k", KEY_FAILURE_SECONDS)


def test_a_suspect_s3_is_probed_once_in_a_while() -> None:
    health = OriginHealth()
    assert health.may_probe(b"k", 0.0)
    health = suspect_since(10.0)
    assert not health.may_probe(b"k", 10.0)
    assert health.may_probe(b"k", 10.0 + PROBE_SECONDS)
    assert not health.may_probe(b"l", 10.0 + 1.5 * PROBE_SECONDS)
    assert health.may_probe(b"l", 10.0 + 2 * PROBE_SECONDS)
    health.succeeded(b"l")
    assert health.may_probe(b"m", 12.0)


def test_keys_that_fail_by_themselves_do_not_take_the_probes_of_others() -> None:
    health = suspect_since(0.0)
    assert health.may_probe(b"0", PROBE_SECONDS)
    assert not health.may_probe(b"1", PROBE_SECONDS)
    assert health.may_probe(b"good", PROBE_SECONDS)


def test_a_key_that_fails_by_itself_is_probed_once_in_a_while() -> None:
    health = OriginHealth()
    health.failed(b"k", 0.0)
    assert not health.may_probe(b"k", PROBE_SECONDS - 0.1)
    assert health.may_probe(b"k", PROBE_SECONDS)
    health.failed(b"k", PROBE_SECONDS + 0.1)
    assert not health.may_probe(b"k", PROBE_SECONDS + 0.2), "a probe that fails brings the next one no nearer"
    assert health.may_probe(b"other", PROBE_SECONDS)


def test_an_s3_that_fails_and_responds_alternately_does_not_fill_the_log() -> None:
    health = OriginHealth()
    lines = 0
    for second in range(int(ANNOUNCE_SECONDS)):
        for number in range(SUSPECT_KEYS):
            lines += health.failed(b"%d" % number, float(second))
        lines += health.succeeded(b"x")
    assert lines == 2
    assert not any(health.failed(b"%d" % n, ANNOUNCE_SECONDS - 1) for n in range(SUSPECT_KEYS))
    health.succeeded(b"x")
    assert any(health.failed(b"%d" % n, ANNOUNCE_SECONDS) for n in range(SUSPECT_KEYS))


@given(st.lists(st.integers(0, 3 * MAX_FAILING_KEYS), max_size=50), st.integers(0, 2 * MAX_FAILING_KEYS))
def test_the_memory_of_failing_keys_is_bounded(keys: list[int], many: int) -> None:
    health = OriginHealth()
    for number in (*range(many), *keys):
        health.failed(b"%d" % number, 0.0)
    known = sum(health.expects_failure(b"%d" % number, 0.0) for number in range(3 * MAX_FAILING_KEYS + 1))
    assert health.suspect or known == len(set(range(many)) | set(keys))
    assert len(health) <= MAX_FAILING_KEYS
