"""The order of commands on the same keys, against the rule that it keeps."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from milena_common.resp.command_ordering import Access, CommandOrdering


@dataclass(frozen=True, slots=True)
class Pipelined:
    number: int
    access: Access
    keys: list[bytes]

    def excludes(self, other: Pipelined) -> bool:
        """Whether the two must not be in flight together."""
        together = self.access == other.access != "modify"
        return not together and not set(self.keys).isdisjoint(other.keys)


class Connection:
    """Begins commands as a connection does, and ends them on request."""

    def __init__(self) -> None:
        self.pending: CommandOrdering[Pipelined] = CommandOrdering()
        self.in_flight: list[Pipelined] = []
        self.begun: list[Pipelined] = []

    def begin(self, requested: Pipelined) -> None:
        if self.pending.conflicts(requested.access, requested.keys):
            self.pending.park(requested, requested.access, requested.keys)
        else:
            self._run(requested)

    def _run(self, requested: Pipelined) -> None:
        assert not any(requested.excludes(other) for other in self.in_flight)
        self.pending.add(requested.access, requested.keys)
        self.in_flight.append(requested)
        self.begun.append(requested)

    def end(self, requested: Pipelined) -> None:
        self.in_flight.remove(requested)
        self.pending.remove(requested.access, requested.keys)
        while (ready := self.pending.next_ready()) is not None:
            self._run(ready)


ACCESSES: tuple[Access, ...] = ("read", "write", "modify")
requested = st.tuples(
    st.sampled_from(ACCESSES), st.lists(st.sampled_from((b"a", b"b", b"c")), min_size=1, max_size=3)
)


@given(st.lists(requested, max_size=20), st.randoms())
def test_commands_that_exclude_each_other_begin_in_their_order_and_all_begin(drawn: list, random: object) -> None:
    connection = Connection()
    commands = [Pipelined(number, access, keys) for number, (access, keys) in enumerate(drawn)]
    waiting = list(commands)
    while waiting or connection.in_flight:
        if waiting and (not connection.in_flight or random.random() < 0.6):  # type: ignore[attr-defined]
            connection.begin(waiting.pop(0))
        else:
            connection.end(random.choice(connection.in_flight))  # type: ignore[attr-defined]
    assert sorted(each.number for each in connection.begun) == [each.number for each in commands]
    places = {each.number: place for place, each in enumerate(connection.begun)}
    for first in commands:
        for second in commands[first.number + 1 :]:
            if first.excludes(second) or (first.access == second.access and first.keys[0] in second.keys):
                assert places[first.number] < places[second.number]
    assert not connection.pending.parked
    assert not connection.pending.freed


def test_a_parked_command_holds_up_only_what_touches_its_keys() -> None:
    connection = Connection()
    write, read = Pipelined(0, "write", [b"a"]), Pipelined(1, "read", [b"a"])
    other, behind = Pipelined(2, "write", [b"b"]), Pipelined(3, "write", [b"a"])
    for each in (write, read, other, behind):
        connection.begin(each)
    assert connection.begun == [write, other]
    connection.end(write)
    assert connection.begun == [write, other, read]
    connection.end(read)
    assert connection.begun == [write, other, read, behind]


def test_reads_that_wait_for_one_write_begin_together() -> None:
    connection = Connection()
    write, reads = Pipelined(0, "write", [b"a"]), [Pipelined(number, "read", [b"a"]) for number in (1, 2, 3)]
    for each in (write, *reads):
        connection.begin(each)
    connection.end(write)
    assert connection.in_flight == reads


def test_a_command_on_several_keys_waits_for_all_of_them() -> None:
    connection = Connection()
    one, two, both = (
        Pipelined(0, "write", [b"a"]),
        Pipelined(1, "write", [b"b"]),
        Pipelined(2, "read", [b"a", b"b", b"a"]),
    )
    for each in (one, two, both):
        connection.begin(each)
    connection.end(one)
    assert both not in connection.begun
    connection.end(two)
    assert both in connection.begun
