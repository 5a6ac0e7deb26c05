"""A node replies as Redis does, byte for byte, except where `differences` says otherwise.

With a redis-server on this machine it is queried; without, its recorded replies are in replies.json. To query and
keep anew: `python -m tests.e2e.redis.record`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.peers.redis_server import RedisServer
from tests.e2e.redis.cases import ABSENT, CASES, Case, Step
from tests.e2e.redis.differences import ABSENT_COMMANDS, DIFFERENCES
from tests.e2e.redis.runs import PROTOCOLS, RECORDED, Replies, recorded, run, run_all
from tests.e2e.redis.wire import Wire, parsed
from tests.support.cluster import Cluster
from tests.support.s3.moto_server import MotoServer

pytestmark = pytest.mark.e2e

# Milliseconds that may pass between a command and the reply to the next.
NEAR = 20_000


@pytest.fixture(scope="module")
def node(moto: MotoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The RESP server of a node that is alone in the ring."""
    with Cluster(tmp_path_factory.mktemp("differential"), moto.endpoint_url, moto.new_bucket(), 1) as cluster:
        yield cluster.nodes[0].resp
        assert cluster.tracebacks() == []


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Replies:
    """What Redis replies."""
    if shutil.which("redis-server") is None:
        return recorded()[1]
    with RedisServer(tmp_path_factory.mktemp("redis"), durable=False) as server:
        return run_all(server.address)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_replies_are_those_of_redis(node: str, redis: Replies, case: Case, protocol: int) -> None:
    wrong: list[tuple[object, ...]] = []
    for step, ours, theirs in zip(case.steps, run(node, case, protocol), redis[protocol][case.name], strict=True):
        shown = text(step)
        difference = DIFFERENCES.get((case.name, shown))
        if difference is None:
            if not agree(case, ours, theirs):
                wrong.append((shown, "ours", ours, "Redis", theirs))
        elif not ours.startswith(difference.ours):
            wrong.append((shown, "ours", ours, "the table", difference.ours))
        elif agree(case, ours, theirs) and not difference.may_agree:
            wrong.append((shown, "is not different", ours))
    assert wrong == []


def agree(case: Case, ours: bytes, theirs: bytes) -> bool:
    """Whether that is one and the same reply."""
    if case.compare == "near":
        numbers, others = ([int(each) for each in re.findall(rb"\d+", reply)] for reply in (ours, theirs))
        return re.sub(rb"\d+", b"", ours) == re.sub(rb"\d+", b"", theirs) and all(
            abs(one - other) <= NEAR for one, other in zip(numbers, others, strict=True)
        )
    if case.compare == "any order":
        return len(ours) == len(theirs) and in_order(parsed(ours)) == in_order(parsed(theirs))
    return ours == theirs


def text(step: Step | str) -> str:
    """Return what is sent in a step, as `DIFFERENCES` names it."""
    return step.data.decode(errors="replace") if isinstance(step, Step) else step


def in_order(reply: Any) -> Any:
    return sorted(map(in_order, reply), key=repr) if isinstance(reply, list) else repr(reply)


def test_every_difference_is_one_of_a_case() -> None:
    steps = {(case.name, text(step)) for case in CASES for step in case.steps}
    assert set(DIFFERENCES) <= steps


@pytest.mark.parametrize("line", ABSENT)
def test_commands_that_are_not_listed_are_unknown(node: str, line: str) -> None:
    with Wire(node) as wire:
        reply = wire.say(line)
        name, *_ = line.split()
        assert reply.startswith(b"-ERR unknown command '%b', with args beginning with: " % name.encode())
        assert reply.replace(name.encode(), b"NOSUCH") == wire.say(line.replace(name, "NOSUCH"))


def test_the_protocol_s_document_has_every_reason() -> None:
    document = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text()
    reasons = {ABSENT_COMMANDS, *(difference.reason for difference in DIFFERENCES.values())}
    assert [reason for reason in reasons if f"| {reason}" not in " ".join(document.split())] == []


def test_what_was_recorded_covers_the_cases() -> None:
    _, replies = recorded()
    assert RECORDED.exists()
    for protocol in PROTOCOLS:
        assert {name: len(given) for name, given in replies[protocol].items()} == {
            case.name: len(case.steps) for case in CASES
        }
