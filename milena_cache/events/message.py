"""Pure. Reads the messages of the queue: S3's own, and those that come through SNS or EventBridge.

S3 encodes keys as forms do ("a b+c" is "a+b%2Bc") in what it sends to SQS and SNS, and not in what it sends to
EventBridge. An event tells at most an ETag: which of two events is the later one does not matter, see `changes`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple
from urllib.parse import unquote_plus

# What S3 sends once, when notifications are configured.
TEST_EVENT: Final = "s3:TestEvent"

_CREATED: Final = ("ObjectCreated:", "Object Created")
# Of EventBridge only the kind that has an end: "Object Deleted".
_REMOVED: Final = ("ObjectRemoved:", "LifecycleExpiration:", "Object Deleted")
# S3's events are objects in at most one envelope; SNS has a subscriber's filter add no other.
_MAX_DEPTH: Final = 2


class Unreadable(ValueError):
    """The text is no message about objects of S3."""


class ObjectEvent(NamedTuple):
    """A change of one object.

    bucket: its name in S3
    key: its key in S3
    etag: of what S3 has since, without quotes; "" if the object was removed
    at: when S3 reports that it happened, seconds since 1970; None if the event does not tell
    """

    bucket: str
    key: str
    etag: str
    at: float | None


def events_of(body: str) -> Sequence[ObjectEvent]:
    """Return the changes in a message: none in a test event, and none in events about tags and the like.

    Raises Unreadable.
    """
    try:
        return _read(_object(json.loads(body)), 0)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Unreadable(f"{type(error).__name__}: {error}"[:200]) from None


def _object(found: Any) -> Mapping[str, Any]:
    if not isinstance(found, dict):
        raise Unreadable("no JSON object")
    return found


def _read(message: Mapping[str, Any], depth: int) -> Sequence[ObjectEvent]:
    if "Records" in message:
        return [event for record in message["Records"] if (event := _record(_object(record))) is not None]
    if message.get("Event") == TEST_EVENT:
        return ()
    if message.get("source") == "aws.s3" and "detail" in message:
        found = _detail(message)
        return () if found is None else (found,)
    if message.get("Type") == "Notification" and depth < _MAX_DEPTH:
        return _read(_object(json.loads(message["Message"])), depth + 1)
    raise Unreadable("neither Records of S3, nor an event of EventBridge, nor a notification of SNS")


def _record(record: Mapping[str, Any]) -> ObjectEvent | None:
    name = record["eventName"].removeprefix("s3:")
    about = record["s3"]
    etag = _etag(name, about["object"])
    if etag is None:
        return None
    return ObjectEvent(
        _text(about["bucket"]["name"]),
        unquote_plus(_text(about["object"]["key"])),
        etag,
        _time(record, "eventTime"),
    )


def _detail(event: Mapping[str, Any]) -> ObjectEvent | None:
    detail = event["detail"]
    etag = _etag(event["detail-type"], detail["object"])
    if etag is None:
        return None
    return ObjectEvent(_text(detail["bucket"]["name"]), _text(detail["object"]["key"]), etag, _time(event, "time"))


def _etag(name: str, about: Mapping[str, Any]) -> str | None:
    """Return the ETag, "" after a removal; None if the event is about something else than the object's value."""
    if name.startswith(_REMOVED):
        return ""
    if not name.startswith(_CREATED):
        return None
    # AWS's events of EventBridge spell it "etag", those of others as in S3's own.
    etag = _text(about.get("eTag") or about.get("etag") or "")
    # An object without an ETag in its event equals no entry.
    return etag.strip('"') or "unknown"


def _text(found: Any) -> str:
    if not isinstance(found, str):
        raise Unreadable(f"a text was expected, not {type(found).__name__}")
    return found


def _time(event: Mapping[str, Any], name: str) -> float | None:
    try:
        timestamp = datetime.fromisoformat(event[name])
    except (KeyError, ValueError, TypeError):
        return None
    # Without a zone it would count as local time.
    return timestamp.timestamp() if timestamp.tzinfo is not None else None
