"""A plugin for the s3-tests of Ceph: where buckets are made, which tests run, and a file of outcomes.

Buckets are made and deleted at the S3 behind the endpoint (MILENA_SUITE_S3), since the endpoint does neither. What
the tests do before and after each of them, deleting all buckets, is left out: it lists versions, and the S3 is
thrown away. Each line of the file MILENA_SUITE_OUTCOMES is the JSON list of a test's name and its error, null if it
passed; skipped ones have none.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Generator
from typing import Any

import boto3
import pytest
import selection
from botocore.client import BaseClient

_AT_S3 = ("CreateBucket", "DeleteBucket")
# Of one test.
_SECONDS = 120

_errors: dict[str, str] = {}
_passed: set[str] = set()

_client: Any = boto3.client
_s3 = _client("s3", endpoint_url=os.environ["MILENA_SUITE_S3"])
_call = BaseClient._make_api_call  # type: ignore[attr-defined]


def _call_at(self: Any, operation: str, parameters: Any) -> Any:
    return _call(_s3 if operation in _AT_S3 else self, operation, parameters)


BaseClient._make_api_call = _call_at  # type: ignore[attr-defined]


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    import s3tests.functional  # type: ignore[import-not-found]

    s3tests.functional.setup = s3tests.functional.teardown = lambda: None
    chosen = [
        item
        for item in items
        if selection.reason_of(item.name, [each.name for each in item.iter_markers()]) is None
    ]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


def _stop(*_: object) -> None:
    raise TimeoutError(f"the test takes longer than {_SECONDS} s")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: Any) -> Generator[None, Any, Any]:
    signal.signal(signal.SIGALRM, _stop)
    signal.alarm(_SECONDS)
    try:
        return (yield)
    finally:
        signal.alarm(0)


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
