"""The audit log: lines of JSON, without secrets, bounded, opened again for rotation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from milena_common.access.audit_log import MAX_TEXT, AuditLog
from milena_common.access.settings import AccessSettings
from milena_common.api.errors import ConfigError
from tests.support.waiting import wait_until


def opened(path: Path, *, plain: bool = False) -> AuditLog:
    return AuditLog(AccessSettings(audit_log=str(path), audit_plain_keys=plain), lambda: 1_700_000_000.5)


def test_events_are_lines_with_hashed_keys(tmp_path: Path) -> None:
    log = opened(tmp_path / "audit")
    log.record("denied", {"user": "app\n", "key": "secret/1", "number": 3, "long": "x" * 5000})
    log.close()
    (line,) = (tmp_path / "audit").read_text().splitlines()
    event = json.loads(line)
    assert event["time"] == "2023-11-14T22:13:20.500+00:00"
    assert (event["event"], event["user"], event["number"]) == ("denied", "app\n", 3)
    assert event["key"].startswith("sha256:")
    assert len(event["long"]) == MAX_TEXT
    assert (tmp_path / "audit").stat().st_mode & 0o007 == 0


def test_keys_are_plain_where_that_is_set(tmp_path: Path) -> None:
    log = opened(tmp_path / "audit", plain=True)
    log.record("denied", {"key": "secret/1"})
    log.close()
    assert "secret/1" in (tmp_path / "audit").read_text()


def test_the_file_is_opened_again_after_it_was_renamed(tmp_path: Path) -> None:
    log = opened(tmp_path / "audit")
    log.record("one", {})
    wait_until("it is written", lambda: "one" in (tmp_path / "audit").read_text(), 10)
    (tmp_path / "audit").rename(tmp_path / "old")
    log.reopen()
    wait_until("there is a new file", (tmp_path / "audit").exists, 10)
    log.record("two", {})
    log.close()
    assert "two" in (tmp_path / "audit").read_text()
    assert "two" not in (tmp_path / "old").read_text()


def test_what_cannot_be_written_is_counted(tmp_path: Path) -> None:
    log = AuditLog(AccessSettings(audit_log="/dev/full"), lambda: 0.0)
    log.record("one", {})
    log.close()
    assert log.dropped == 1
    with pytest.raises(ConfigError, match="AUDIT_LOG"):
        opened(tmp_path / "nowhere" / "audit")


def test_off_is_off() -> None:
    log = AuditLog(AccessSettings(), lambda: 0.0)
    log.record("one", {"key": object()})
    log.close()
    assert not log.enabled
