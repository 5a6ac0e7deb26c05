"""Pure. Who gets the slots of a lost owner, and which slots have no owner until a lost process returns.

A slot goes to its first complete holder that lives: it has every acknowledged write that S3 does not have. If there
is none, S3 may have older values than were acknowledged, and giving the slot to any node would show them. So the
slot *waits*: it has no owner until one of the processes that have everything returns with its journal, or all of
them are given up, by a person or because they were waited for long enough.

Interleaving that waiting avoids: (1) the owner and its holder lose power; (2) a third node gets the slot, reads an
old value from S3, and a client computes the next one from it; (3) both return with their journals, whose writes are
now older than the third node's, and are lost although two disks have them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from milena_common.cluster.copy_holders import CopyRun, Held, first_complete, is_collecting
from milena_common.cluster.member import Member
from milena_common.cluster.slot_runs import Run, overlaps


class Awaited(NamedTuple):
    """The lost processes that have the writes of slots, the owner first.

    `complete`: False if that is an owner that was lost while it collected, with no complete holder: it may have
    acknowledged writes, and what it has of earlier owners may be superseded.
    """

    processes: tuple[Member, ...]
    complete: bool = True


class WaitingRun(NamedTuple):
    """Slots without an owner since `epoch`, and the processes that they wait for."""

    first: int
    last: int
    awaited: Awaited
    epoch: int

    @property
    def processes(self) -> tuple[Member, ...]:
        """Return the lost processes that have the slots' writes, the owner first."""
        return self.awaited.processes


@dataclass(frozen=True, slots=True)
class Losses:
    """What is known of lost processes.

    lost: the processes of the ring before that are lost, by address
    clean: the addresses of those of them that left with all their writes in S3
    journals: the addresses of the living members by their journals
    forgotten: the addresses of lost processes that a person has written off
    given_up: slots that have been without an owner since this epoch or before are waited for no longer
    """

    lost: Mapping[str, Member] = field(default_factory=dict)
    clean: Collection[str] = ()
    journals: Mapping[str, str] = field(default_factory=dict)
    forgotten: Collection[str] = ()
    given_up: int = 0


def promoted(
    runs: Iterable[Run], copies: Sequence[CopyRun], waiting: Iterable[WaitingRun], losses: Losses, epoch: int
) -> tuple[list[Run], list[WaitingRun]]:
    """Return new owners since `epoch` for the slots of lost nodes, "" for those without, and the slots that wait.

    `runs` and `copies` are those of the ring before; a lost node's runs have its address. Slots that have no owner
    and do not wait can be given to any node.
    """
    changes: list[Run] = []
    still: list[WaitingRun] = []
    owned_by_lost = [run for run in runs if run.address in losses.lost]
    for first, last, run, copy in overlaps(owned_by_lost, copies):
        living = [each for each in copy.held.holders if each.address not in losses.lost]
        address = first_complete(living)
        changes.append(Run(first, last, address, epoch))
        if address or run.address in losses.clean:
            continue
        complete = _lost_complete(copy.held, losses)
        if is_collecting(copy.held) and complete:
            still.append(WaitingRun(first, last, Awaited(complete), epoch))
        else:
            owner = losses.lost[run.address]
            # The owner may be listed too, as a complete holder of its own slots.
            others = (each for each in complete if each.address not in losses.clean and each != owner)
            awaited = Awaited((owner, *others), not is_collecting(copy.held))
            still.append(WaitingRun(first, last, awaited, epoch))
    for start, stop, held, _ in copies:
        if is_collecting(held) and held.owner not in losses.lost:
            survivor = first_complete(each for each in held.holders if each.address not in losses.lost)
            complete = _lost_complete(held, losses)
            if complete and not survivor:
                changes.append(Run(start, stop, "", epoch))
                still.append(WaitingRun(start, stop, Awaited(complete), epoch))
    for part in waiting:
        returned = [each.journal_id for each in part.processes if each.journal_id in losses.journals]
        left = tuple(each for each in part.processes if each.address not in losses.forgotten)
        if returned:
            changes.append(Run(part.first, part.last, losses.journals[returned[0]], epoch))
        elif left and part.epoch > losses.given_up:
            still.append(part._replace(awaited=part.awaited._replace(processes=left)))
    return changes, _joined(still)


def _lost_complete(held: Held, losses: Losses) -> tuple[Member, ...]:
    """Return the complete holders of `held` that are lost.

    What an owner collects may be another one's writes: also a holder that left with its own in S3 has them.
    """
    return tuple(
        losses.lost[each.address] for each in held.holders if not each.since and each.address in losses.lost
    )


def _joined(runs: list[WaitingRun]) -> list[WaitingRun]:
    joined: list[WaitingRun] = []
    for run in sorted(runs, key=lambda each: each.first):
        if joined and joined[-1].last == run.first - 1 and joined[-1][2:] == run[2:]:
            run = run._replace(first=joined.pop().first)
        joined.append(run)
    return joined
