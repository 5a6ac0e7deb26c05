"""What the ghost remembers, and for how long."""

from __future__ import annotations

from milena_cache.eviction.ghost import MIN_BUCKETS, WAYS, WINDOW, Ghost

# Of the keys that it should remember, or should have forgotten: its table may be wrong about some.
ALMOST_ALL = 0.98


def test_a_key_is_remembered_once() -> None:
    ghost = Ghost()
    ghost.add(b"a", 0.001)
    assert ghost.has(b"a")
    assert not ghost.has(b"b")
    assert ghost.pop_key(b"a")
    assert not ghost.has(b"a")
    assert not ghost.pop_key(b"a")


def test_keys_are_forgotten_when_as_much_was_evicted_as_the_window_says() -> None:
    number = 10_000
    ghost = Ghost()
    for each in range(3 * number):
        ghost.add(b"%d" % each, 1 / number)
    newest = range(int((3 - WINDOW) * number) + number // 100, 3 * number)
    oldest = range(int((3 - WINDOW) * number) - number // 100)
    assert sum(ghost.has(b"%d" % each) for each in newest) > ALMOST_ALL * len(newest)
    assert sum(ghost.has(b"%d" % each) for each in oldest) < (1 - ALMOST_ALL) * len(oldest)


def test_a_table_that_grows_forgets_nothing() -> None:
    ghost = Ghost()
    number = 20 * MIN_BUCKETS * WAYS
    for each in range(number):
        ghost.add(b"%d" % each, WINDOW / 2 / number)
    assert sum(ghost.has(b"%d" % each) for each in range(number)) > ALMOST_ALL * number


def test_tables_that_nothing_counts_in_are_dropped() -> None:
    ghost = Ghost()
    number = 8 * MIN_BUCKETS * WAYS
    for each in range(number):
        ghost.add(b"%d" % each, WINDOW / number)
    assert ghost._before
    for each in range(number):
        ghost.add(b"again %d" % each, 2 * WINDOW / number)
    ghost.has(b"any")
    assert len(ghost._before) <= 1


def test_stamps_that_come_again_do_not_bring_keys_back() -> None:
    ghost = Ghost()
    ghost.add(b"a", 0.001)
    for each in range(100):
        ghost.add(b"%d" % each, 0.03)
    assert not ghost.has(b"a")
