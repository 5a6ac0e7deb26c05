"""Cursors are numbers that are good for a while, and never two places'."""

from __future__ import annotations

from milena_cache.servers.resp.state.cursors import MAX_CURSORS, SECONDS, Cursors, Place


def place(name: str) -> Place:
    return Place(b"", name)


def test_a_number_gives_its_place_as_often_as_it_is_looked_up() -> None:
    cursors = Cursors(17)
    first, second = cursors.add(place("a"), 0.0), cursors.add(place("b"), 0.0)
    assert (first, second) == (17, 18)
    for _ in range(3):
        assert cursors.find(first, 1.0) == place("a")
        assert cursors.find(second, 1.0) == place("b")
    assert cursors.find(19, 1.0) is None


def test_an_unused_cursor_is_removed() -> None:
    cursors = Cursors(1)
    used, unused = cursors.add(place("a"), 0.0), cursors.add(place("b"), 0.0)
    assert cursors.find(used, SECONDS - 1) == place("a")
    assert cursors.find(unused, SECONDS + 1) is None
    assert cursors.find(used, SECONDS + 1) == place("a")
    assert len(cursors) == 1


def test_the_oldest_give_way_when_there_are_too_many() -> None:
    cursors = Cursors(1)
    numbers = [cursors.add(place(str(each)), 0.0) for each in range(MAX_CURSORS)]
    assert cursors.find(numbers[0], 0.0) == place("0")
    cursors.add(place("one more"), 0.0)
    assert len(cursors) == MAX_CURSORS
    assert cursors.find(numbers[0], 0.0) == place("0")
    assert cursors.find(numbers[1], 0.0) is None
