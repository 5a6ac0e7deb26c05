"""Shell. Sends a server the cases, and keeps what Redis has replied for machines that have no Redis."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TypeAlias

from tests.e2e.redis.cases import CASES, Case, Step
from tests.e2e.redis.wire import Wire

RECORDED = Path(__file__).with_name("replies.json")
PROTOCOLS = (2, 3)

# By protocol, and by the name of the case: the reply to each step.
Replies: TypeAlias = dict[int, dict[str, list[bytes]]]

_KEY = re.compile(rb"<([a-z])>")


def run_all(address: str) -> Replies:
    """What the Redis server at `address` replies to everything, each case beginning with nothing."""
    replies: Replies = {}
    for protocol in PROTOCOLS:
        replies[protocol] = {}
        for case in CASES:
            with Wire(address) as wire:
                wire.say("FLUSHALL")
            replies[protocol][case.name] = run(address, case, protocol)
    return replies


def run(address: str, case: Case, protocol: int) -> list[bytes]:
    """What the server replies to a case."""
    prefix = re.sub(r"\W+", "-", case.name)
    with Wire(address) as wire:
        if protocol == 3:
            wire.say("HELLO 3")
        replies = []
        for step in case.steps:
            if isinstance(step, Step):
                data = _KEY.sub(rb"%s.%d.\1" % (prefix.encode(), protocol), step.data)
                replies.append(wire.send(data, step.replies))
            else:
                replies.append(wire.say(re.sub(r"<([a-z])>", rf"{prefix}.{protocol}.\1", step)))
        return replies


def record(version: str, replies: Replies) -> None:
    """Keep them; bytes as characters of Latin-1."""
    kept = {
        str(protocol): {name: [each.decode("latin-1") for each in given] for name, given in cases.items()}
        for protocol, cases in replies.items()
    }
    RECORDED.write_text(json.dumps({"redis_version": version, "answers": kept}, indent=1) + "\n")


def recorded() -> tuple[str, Replies]:
    """The version of Redis that replied so, and its replies."""
    kept = json.loads(RECORDED.read_text())
    return kept["redis_version"], {
        int(protocol): {name: [each.encode("latin-1") for each in given] for name, given in cases.items()}
        for protocol, cases in kept["answers"].items()
    }
