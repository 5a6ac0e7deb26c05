"""A plugin for redis-py's own tests: which of them run, for which server they take theirs, and a file of outcomes.

Its tests choose their client, and skip some, by what `INFO` says. Both servers are to run the same tests with the
same client, so each is taken for a standalone server of the version MILENA_SUITE_VERSION. Each line of the file
MILENA_SUITE_OUTCOMES is the JSON list of a test's name and its error, null if it passed; skipped ones have none.
"""

from __future__ import annotations

import json
import os
import re
import tracemalloc
from typing import Any

import pytest

# Tests of commands that concern other than values of bytes, keys and their clients: other types of values, and what
# only the server as a whole has, its users, its disk, its replicas.
_NOT_CONCERNED = re.compile(
    "test_("
    r"ar[a-z]+_|[bl]?[lr]m?(pop|push|move|range|rem|set|trim|index|insert|len|pos)|lists_|sort_|[bs]?z[a-z]|"
    r"binary_lists|s(add|card|diff|inter|is?member|members|mismember|move|pop|rand|rem|union|scan)|h(?!ello)[a-z]+|"
    r"x[a-z]+|geo|old_geo|pf|function|fcall|blmpop|lmpop|"
    r"cluster_|replicaof|failover|psync|shutdown|bgsave|lastsave|lolwut|acl_|auth$|debug_segfault|memory_malloc|readonly"
    ")"
)

_passed: set[str] = set()
_errors: dict[str, str] = {}


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: Any) -> None:
    session.config.REDIS_INFO.update(version=os.environ["MILENA_SUITE_VERSION"], cluster_enabled=False)
    # A fixture of the session begins it, and no test looks at what it finds: it makes them twice as slow.
    tracemalloc.start = lambda nframe=1: None  # type: ignore[assignment]


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    chosen = [item for item in items if not ("test_commands" in item.nodeid and _NOT_CONCERNED.match(item.name))]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


def pytest_exception_interact(node: Any, call: Any) -> None:
    """Note the first error of a test, one of its fixtures' too."""
    _errors.setdefault(node.nodeid, call.excinfo.exconly())


def pytest_runtest_logreport(report: Any) -> None:
    if report.when == "call" and report.passed:
        _passed.add(report.nodeid)


def pytest_runtest_logfinish(nodeid: str) -> None:
    if nodeid in _passed or nodeid in _errors:
        with open(os.environ["MILENA_SUITE_OUTCOMES"], "a") as file:
            file.write(json.dumps([nodeid, _errors.get(nodeid)]) + "\n")
