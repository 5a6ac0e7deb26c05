"""What is read in the messages of the queue."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milena_cache.events.message import ObjectEvent, Unreadable, events_of

AT = "2026-11-30T12:00:00.500Z"
SECONDS = 1_796_040_000.5


def record(name: str, key: str, etag: str | None = "e1", **more: Any) -> dict[str, Any]:
    about = {"key": key, "size": 1, **({} if etag is None else {"eTag": etag})}
    return {
        "eventVersion": "2.5",
        "eventSource": "aws:s3",
        "eventTime": AT,
        "eventName": name,
        "s3": {"bucket": {"name": "b"}, "object": about},
        **more,
    }


def text(*records: dict[str, Any]) -> str:
    return json.dumps({"Records": records})


def bridge(kind: str, key: str, **about: Any) -> str:
    detail = {"bucket": {"name": "b"}, "object": {"key": key, **about}}
    return json.dumps({"source": "aws.s3", "detail-type": kind, "time": "2026-11-30T12:00:00Z", "detail": detail})


def test_a_key_of_s3_itself_is_encoded_as_forms_are() -> None:
    found = events_of(text(record("ObjectCreated:Put", "red+flower%2Bc/%C3%A9.jpg")))
    assert found == [ObjectEvent("b", "red flower+c/é.jpg", "e1", SECONDS)]


def test_a_key_of_eventbridge_is_not() -> None:
    assert events_of(bridge("Object Created", "a+b%2B c", etag="e2")) == (
        ObjectEvent("b", "a+b%2B c", "e2", SECONDS - 0.5),
    )


def test_others_spell_the_etag_of_eventbridge_as_s3_does() -> None:
    assert events_of(bridge("Object Created", "k", eTag='"e2"'))[0].etag == "e2"


@pytest.mark.parametrize(
    "name", ["ObjectRemoved:Delete", "ObjectRemoved:DeleteMarkerCreated", "s3:LifecycleExpiration:Delete"]
)
def test_a_delete_has_no_etag_whatever_the_event_has(name: str) -> None:
    assert events_of(text(record(name, "k", "the old one")))[0].etag == ""


def test_a_delete_of_eventbridge() -> None:
    assert events_of(bridge("Object Deleted", "k"))[0].etag == ""


@pytest.mark.parametrize(
    "name", ["ObjectCreated:Put", "ObjectCreated:Copy", "ObjectCreated:CompleteMultipartUpload"]
)
def test_what_was_created_is_no_delete_even_without_an_etag(name: str) -> None:
    assert events_of(text(record(name, "k", None)))[0].etag != ""


@pytest.mark.parametrize("name", ["ObjectTagging:Put", "ObjectAcl:Put", "ObjectRestore:Post", "Replication:X"])
def test_other_events_change_no_value(name: str) -> None:
    assert events_of(text(record(name, "k"), record("ObjectCreated:Put", "l"))) == [
        ObjectEvent("b", "l", "e1", SECONDS)
    ]


def test_the_first_message_is_a_test() -> None:
    assert events_of(json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b"})) == ()


@pytest.mark.parametrize(
    "inner", [text(record("ObjectCreated:Put", "k")), bridge("Object Created", "k", etag="e1")]
)
def test_sns_has_any_of_them_as_a_text(inner: str) -> None:
    outer = json.dumps({"Type": "Notification", "MessageId": "m", "TopicArn": "t", "Message": inner})
    assert events_of(outer)[0].key == "k"


@pytest.mark.parametrize("at", ["yesterday", "2026-11-30T12:00:00", None, 12])
def test_a_time_that_is_none_is_left_out(at: Any) -> None:
    assert events_of(text(record("ObjectCreated:Put", "k", eventTime=at)))[0].at is None


@pytest.mark.parametrize(
    "body",
    [
        *("", "null", "[]", "hello", '{"Records": 1}', '{"Records": [1]}', '{"Records": [{}]}', "{}"),
        '{"source": "aws.s3", "detail": {}}',
        '{"Type": "Notification", "Message": "hello"}',
        "[" * 100_000,
        text({**record("ObjectCreated:Put", "k"), "s3": {"bucket": {"name": 1}, "object": {"key": "k"}}}),
    ],
    ids=lambda body: body[:30],
)
def test_what_is_no_event_is_unreadable(body: str) -> None:
    with pytest.raises(Unreadable):
        events_of(body)


def test_envelopes_in_envelopes_end() -> None:
    body = text(record("ObjectCreated:Put", "k"))
    for _ in range(5):
        body = json.dumps({"Type": "Notification", "Message": body})
    with pytest.raises(Unreadable):
        events_of(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["Records", "s3", "object", "key", "bucket", "name", "eventName", "Type", "Message"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(JSON)
@settings(max_examples=40)
def test_any_json_is_read_or_unreadable(found: Any) -> None:
    with suppress(Unreadable):
        assert all(isinstance(event, ObjectEvent) for event in events_of(json.dumps(found)))
