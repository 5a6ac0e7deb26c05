"""Shell. Another writer changes objects in S3 while ours are dirty: ``python -m tests.faults.two_writers``.

Each case is a key: what was known of it, what we do to it, and what another writer does before ours is uploaded.
What must come of it depends on WRITE_CONFLICT: S3 afterwards, what Milena returns, whether it is a dead letter, and
whether it is counted as a conflict. It must be the same if the node is killed before the other one's change, but
for one thing: a node that has been restarted takes a delete by another writer for one of its own, and writes anew.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from milena_cache.writeback.uploads.upload import POLICIES, Policy
from milena_client import Milena
from milena_client.admin import Admin
from tests.faults.harness.system import BUCKET, SystemUnderTest, print_samples, scratch
from tests.support.s3.moto_server import s3_client

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BEFORE, OURS, THEIRS = b"before", b"ours", b"theirs"
BESIDE = ".milena-conflict-"
# Nothing is uploaded before it is asked for.
NODE = {"FLUSH_DELAY_MS": "3600000", "NEGATIVE_TTL_SECONDS": "3600"}

Known = Literal["object", "nothing", "unknown"]


class Case(NamedTuple):
    """`known`: what Milena has read of the key before. `ours` and `theirs`: a value, or None for a delete."""

    known: Known
    ours: bytes | None
    theirs: bytes | None


class End(NamedTuple):
    """What has become of a key. `beside`: what S3 has under its name with the suffix of conflicts."""

    s3: bytes | None
    read: bytes | None
    dead: bool = False
    beside: bytes | None = None


CASES: Mapping[str, Case] = {
    "changed/put": Case("object", OURS, THEIRS),
    "deleted/put": Case("object", OURS, None),
    "created/put": Case("nothing", OURS, THEIRS),
    "changed/delete": Case("object", None, THEIRS),
    "deleted/delete": Case("object", None, None),
    "unknown/put": Case("unknown", OURS, THEIRS),
    "unknown/delete": Case("unknown", None, THEIRS),
}
# Where it is unknown what was there before, or both wanted the same, there is no conflict.
CONFLICTS = ("changed/delete", "changed/put", "created/put", "deleted/put")
UNNOTICED_AFTER_A_KILL = "deleted/put"


def conflicts(*, kill: bool) -> list[str]:
    """The cases that must be taken for conflicts."""
    return [name for name in CONFLICTS if not (kill and name == UNNOTICED_AFTER_A_KILL)]


def expected(policy: Policy, *, kill: bool) -> dict[str, End]:
    """What must have become of each key."""
    ends = {name: End(case.ours, case.ours) for name, case in CASES.items()}
    for name in conflicts(kill=kill):
        _, ours, theirs = CASES[name]
        if policy == "fail":
            ends[name] = End(theirs, ours, dead=True)
        elif policy == "keep-both" and theirs is not None:
            ends[name] = End(theirs, theirs, beside=ours)
    return ends


@dataclass(slots=True)
class Outcome:
    """`counted`: the metric, of this policy and of the others; `logged`: keys that the log names."""

    policy: Policy
    kill: bool
    ends: dict[str, End]
    counted: int
    counted_otherwise: int
    logged: list[str]
    defects: list[str]

    @property
    def wrong(self) -> list[str]:
        right, known = expected(self.policy, kill=self.kill), conflicts(kill=self.kill)
        found = [f"{name}: {end}, and not {right[name]}" for name, end in self.ends.items() if end != right[name]]
        if (self.counted, self.counted_otherwise) != (len(known), 0):
            found.append(f"counted {self.counted} and {self.counted_otherwise}, and not {len(known)} and 0")
        if self.logged != known:
            found.append(f"the log names {self.logged}, and not {known}")
        return found + self.defects

    def samples(self) -> dict[str, object]:
        return {
            **{name: str(end) for name, end in self.ends.items()},
            "conflicts counted, and in the log": f"{self.counted}, {len(self.logged)}",
            "wrong": self.wrong or "nothing",
        }


def run(directory: Path, policy: Policy, *, kill: bool) -> Outcome:
    """Blocks until it is done. `kill`: the node is killed and started before the other one's changes."""
    with (
        SystemUnderTest(directory, {**NODE, "WRITE_CONFLICT": policy}) as system,
        Milena(system.address) as m,
        Admin(system.address) as admin,
    ):
        s3 = s3_client(system.stub.endpoint_url)
        for key, case in CASES.items():
            if case.known == "object":
                _change(s3, key, BEFORE)
            if case.known != "unknown":
                assert m.get(key) == (BEFORE if case.known == "object" else None)
        for key, case in CASES.items():
            written = m.delete(key) if case.ours is None else m.set(key, case.ours)
            assert written.durability == "back"
        if kill:
            system.node.kill()
            system.restart()
        for key, case in CASES.items():
            _change(s3, key, case.theirs)
        admin.flush()
        dead = {write.key for write in admin.failed().writes}
        in_s3 = system.in_s3()
        beside = {key.partition(BESIDE)[0]: value for key, value in in_s3.items() if BESIDE in key}
        ends = {key: End(in_s3.get(key), m.get(key), key in dead, beside.get(key)) for key in CASES}
        lines = system.node.lines("another writer")
        counted = int(system.metric("milena_writeback_conflicts_total", policy=policy))
        return Outcome(
            policy,
            kill,
            ends,
            counted,
            int(system.metric("milena_writeback_conflicts_total")) - counted,
            sorted(key for key in CASES if any(f"s3://{BUCKET}/{key}: " in line for line in lines)),
            system.defects(),
        )


def _change(s3: S3Client, key: str, value: bytes | None) -> None:
    if value is None:
        s3.delete_object(Bucket=BUCKET, Key=key)
    else:
        s3.put_object(Bucket=BUCKET, Key=key, Body=value)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.two_writers", description=__doc__)
    parser.parse_args()
    right = True
    for policy in POLICIES:
        for kill in (False, True):
            with scratch() as directory:
                outcome = run(directory, policy, kill=kill)
            print_samples(f"two writers, WRITE_CONFLICT={policy}{', killed in between' * kill}", outcome.samples())
            right = right and not outcome.wrong
    return int(not right)


if __name__ == "__main__":
    sys.exit(main())
