"""A part of redis-py's own tests passes at a node; `python -m tests.e2e.redis.suites.redis_py` runs them all.

What passes at a Redis server was found out by that; here only the node is tested.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.e2e.redis.suites.redis_py import fetch, run
from tests.e2e.redis.suites.redis_py_differences import DIFFERENCES, MAX_DIFFERENCES, reason_of, unlisted
from tests.support.cluster import Cluster
from tests.support.s3.moto_server import MotoServer

PART = ("commands", "pipeline", "scripting", "encoding")


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_those_of_commands_transactions_and_scripts_pass(moto: MotoServer, tmp_path: Path) -> None:
    pytest.importorskip("lupa.lua54")
    try:
        source = fetch(tmp_path)
    except subprocess.CalledProcessError:
        pytest.skip("the source of redis-py cannot be fetched from PyPI")
    with Cluster(tmp_path, moto.endpoint_url, moto.new_bucket(), 1, node_env={"ALLOW_FLUSH": "objects"}) as cluster:
        cluster.wait_for_ring(1)
        files = [f"tests/test_{name}.py" for name in PART]
        found = run(source, cluster.nodes[0].resp, files, tmp_path / "outcomes.jsonl")
        assert cluster.tracebacks() == []
    assert unlisted(dict.fromkeys(found), found) == []
    assert len(found) >= 200


def test_the_table_is_short_and_documented() -> None:
    assert len(DIFFERENCES) <= MAX_DIFFERENCES
    document = (Path(__file__).parents[4] / "docs" / "protocol.md").read_text()
    for reason in DIFFERENCES:
        assert f"| {reason} |" in document


def test_a_failure_that_is_not_listed_is_found() -> None:
    one, other = "tests/test_lock.py::TestLock::test_extend", "tests/test_commands.py::TestX::test_dbsize[3]"
    assert reason_of(one) is None
    assert reason_of(other)
    assert unlisted({one: None, other: None}, {one: None, other: "an error"}) == []
    assert len(unlisted({one: None, other: None}, {one: "an error", other: "an error"})) == 1
    assert len(unlisted({one: None}, {})) == 1
    assert len(unlisted({other: None}, {other: None})) == 1
    assert unlisted({one: "fails there too"}, {one: "fails"}) == []
