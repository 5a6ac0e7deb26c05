"""What the fault tests play in: its S3 must hide none of the faults that they look for."""

from __future__ import annotations

from pathlib import Path

import pytest

from milena_client import Milena
from tests.faults.harness.system import SystemUnderTest

pytestmark = pytest.mark.e2e

NODE = {"FLUSH_DELAY_MS": "1500"}


def test_a_condition_on_what_was_dirty_holds_after_its_upload(tmp_path: Path) -> None:
    """With ETags that change at the upload it would fail, and the checker would take that for a defect."""
    with SystemUnderTest(tmp_path, NODE) as system, Milena(system.address) as client:
        written = client.set("k", b"1", durability="back")
        assert system.metric("milena_writeback_dirty_entries") == 1
        system.wait_until_clean(30)
        client.set("k", b"2", if_match=written.etag)
        assert client["k"] == b"2"
