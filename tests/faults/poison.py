"""Shell. S3 rejects one key in a hundred for good: ``python -m tests.faults.poison --keys 10000``.

The others must not wait for them. Every rejected write must be listed with its reason, be read as it was
acknowledged, and survive a kill. Half of them are then dropped, and readers find what S3 has; the others are
retried, once what made S3 reject them is gone.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from milena_client import AsyncMilena
from milena_client.admin import Admin, FailedWrite
from tests.faults.harness.history import History
from tests.faults.harness.load import read_all
from tests.faults.harness.system import BUCKET, SystemUnderTest, print_samples, scratch
from tests.support.s3.faults import ACCESS_DENIED, Reply, Request
from tests.support.s3.moto_server import s3_client
from tests.support.waiting import wait_until

BAD_REQUEST = Reply(400, "InvalidArgument", "Invalid Argument")
REJECTIONS = {"403": ACCESS_DENIED, "400": BAD_REQUEST}
ONE_IN = 100
NODE = {"FLUSH_DELAY_MS": "20"}
SECONDS = 60.0
LIST_LIMIT = 10_000


@dataclass(slots=True)
class Outcome:
    """`poisoned` keys, and what was listed of them when. `drained`: seconds until the others were in S3;
    `older_again`: how many of the `dropped` keys are read as S3 had them before.
    """

    history: History
    rejection: Reply
    poisoned: set[str]
    listed: list[FailedWrite]
    listed_after_kill: list[FailedWrite]
    listed_at_the_end: list[FailedWrite]
    drained: float
    retried: int
    dropped: int
    older_again: int
    defects: list[str]

    def is_right(self, listed: list[FailedWrite]) -> bool:
        """Whether every poisoned key is listed once, with what S3 said, and no other key."""
        keys = [write.key for write in listed]
        return sorted(keys) == sorted(self.poisoned) and all(
            self.rejection.code in write.reason for write in listed
        )

    @property
    def right(self) -> bool:
        return (
            not (self.history.wrong or self.defects or self.listed_at_the_end)
            and self.is_right(self.listed)
            and self.is_right(self.listed_after_kill)
            and self.retried + self.dropped == len(self.poisoned)
            and self.older_again == self.dropped
        )

    def samples(self) -> dict[str, object]:
        return {
            "refused for good": f"{len(self.poisoned)} of {len(self.history.keys)} keys",
            "listed": f"{len(self.listed)}, after a kill {len(self.listed_after_kill)}",
            "each once, with S3's words": self.is_right(self.listed) and self.is_right(self.listed_after_kill),
            "seconds until the others were in S3": self.drained,
            "retried, and in S3": self.retried,
            "dropped": f"{self.dropped}, of which S3's older value is read again: {self.older_again}",
            "verdict": self.history.verdict(),
            "tracebacks": len(self.defects),
        }


def run(directory: Path, keys: int, rejection: Reply) -> Outcome:
    """Blocks until it is done."""
    with SystemUnderTest(directory, NODE) as system:
        return asyncio.run(_run(system, keys, rejection))


async def _run(system: SystemUnderTest, keys: int, rejection: Reply) -> Outcome:
    history = History((f"poison/{number}" for number in range(keys)), large_bytes=5000)
    poisoned = set(history.keys[ONE_IN // 2 :: ONE_IN])
    drop, delete = set(sorted(poisoned)[::2]), set(sorted(poisoned)[::3])
    with Admin(system.address, timeout=SECONDS) as admin:
        before = {key: b"before " + key.encode() for key in poisoned}
        s3 = s3_client(system.stub.endpoint_url)
        for key, value in before.items():
            s3.put_object(Bucket=BUCKET, Key=key, Body=value)

        def rejected(request: Request) -> bool:
            return request.key in poisoned and request.method not in ("GET", "HEAD")

        system.proxy.inject(rejection, where=rejected)
        started = time.monotonic()
        await _write_all(system.address, history, delete)
        await asyncio.to_thread(system.wait_until_clean, SECONDS)
        drained = time.monotonic() - started
        await _others_are_in_s3(system, history, poisoned)
        listed = await asyncio.to_thread(admin.failed, LIST_LIMIT)
        await read_all(system.address, history, "a read with dead letters")

        system.node.kill()
        await asyncio.to_thread(system.restart)
        after_kill = await asyncio.to_thread(_failed_anew, admin, len(listed.writes))
        await read_all(system.address, history, "a read after a kill")

        dropped = await asyncio.to_thread(admin.drop, drop)
        async with AsyncMilena(system.address) as m:
            older_again = sum([await m.get(key) == before[key] for key in sorted(drop)])
        system.proxy.heal()
        retried = await asyncio.to_thread(admin.retry, all=True)
        await asyncio.to_thread(system.wait_until_clean, SECONDS)
        at_the_end = await asyncio.to_thread(admin.failed, LIST_LIMIT)
        in_s3 = await asyncio.to_thread(system.in_s3)
        for key in history.keys:
            if key not in drop:
                history.observed(key, in_s3.get(key), history.mark(key), "S3")
    return Outcome(
        history,
        rejection,
        poisoned,
        listed.writes,
        after_kill,
        at_the_end.writes,
        drained,
        retried,
        dropped,
        older_again,
        system.defects(),
    )


async def _write_all(address: str, history: History, deleted: set[str]) -> None:
    """Put every key, and delete some of them, which S3 rejects as well."""
    several = asyncio.Semaphore(16)

    async def write(m: AsyncMilena, key: str) -> None:
        async with several:
            put = history.begin(key, delete=False)
            await m.set(key, put.value or b"")
            history.acknowledge(put)
            if key in deleted:
                delete = history.begin(key, delete=True)
                await m.delete(key)
                history.acknowledge(delete)

    async with AsyncMilena(address, timeout=SECONDS) as m:
        await asyncio.gather(*(write(m, key) for key in history.keys))


async def _others_are_in_s3(system: SystemUnderTest, history: History, poisoned: set[str]) -> None:
    in_s3 = await asyncio.to_thread(system.in_s3)
    for key in history.keys:
        if key not in poisoned:
            history.observed(key, in_s3.get(key), history.mark(key), "S3, while others are refused")


def _failed_anew(admin: Admin, number: int) -> list[FailedWrite]:
    """The list of a node that has just started."""
    return wait_until("the dead letters are listed again", lambda: _if_all(admin, number), SECONDS)


def _if_all(admin: Admin, number: int) -> list[FailedWrite] | None:
    writes = admin.failed(LIST_LIMIT).writes
    return writes if len(writes) >= number else None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.poison", description=__doc__)
    parser.add_argument("--keys", type=int, default=10_000)
    options = parser.parse_args()
    right = True
    for name, rejection in REJECTIONS.items():
        with scratch() as directory:
            outcome = run(directory, options.keys, rejection)
        print_samples(f"S3 refuses one key in {ONE_IN} with {name}", outcome.samples())
        right = right and outcome.right
    return int(not right)


if __name__ == "__main__":
    sys.exit(main())
