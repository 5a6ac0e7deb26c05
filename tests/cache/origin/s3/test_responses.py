"""What a reply means, by status and code; the clients that find both are in `test_s3_scripted`."""

from __future__ import annotations

import pytest

from milena_cache.objects.object_store import Absent, Fault
from milena_cache.origin.s3.responses import ACCOUNT_CODES, OBJECT_CODES, error_document, is_error_document, meaning

OPERATIONS = ["get", "head", "put", "delete", "list", "bucket"]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize(
    "status", [*range(200, 207), *range(300, 309), *range(400, 452), 500, 501, 502, 503, 504, 507]
)
def test_a_status_without_a_code_of_s3_decides_nothing_that_lasts(
    operation: str, conditional: bool, status: int
) -> None:
    said = meaning(operation, status, "", conditional=conditional)
    if (operation, conditional, status) == ("get", True, 304):
        assert said is Absent.NOT_MODIFIED
    else:
        assert isinstance(said, Fault)
        assert said.retryable
        assert not said.of_object


@pytest.mark.parametrize("operation", OPERATIONS)
def test_absence_and_conditions_are_believed_where_they_can_be_meant(operation: str) -> None:
    absent = operation in ("get", "head", "delete")
    assert meaning(operation, 404, "NoSuchKey") is (Absent.MISSING if absent else Fault.UNEXPECTED)
    assert meaning(operation, 412, "PreconditionFailed") is Fault.UNEXPECTED
    assert meaning(operation, 412, "PreconditionFailed", conditional=True) is Fault.CHANGED
    assert meaning("put", 404, "NoSuchKey", conditional=True) is Fault.CHANGED


@pytest.mark.parametrize("status", [400, 403, 404, 409, 412, 499])
def test_only_codes_of_the_list_are_a_matter_of_one_object(status: int) -> None:
    """An unknown code may be anything: the write is kept, tried again and shown, and not set aside."""
    for code in OBJECT_CODES | {"AccessDenied"}:
        said = meaning("put", status, code, conditional=True)
        assert isinstance(said, Fault)
        assert said.of_object, code
    for code in ACCOUNT_CODES | {"NoSuchBucket", "SlowDown", "BadDigest", "InternalError", "ACodeOfNextYear"}:
        said = meaning("put", status, code, conditional=True)
        assert isinstance(said, Fault)
        assert not said.of_object, code
    assert not OBJECT_CODES & ACCOUNT_CODES


def test_a_document_is_s3s_only_if_it_is_an_error_document() -> None:
    said = error_document('<?xml version="1.0"?>\n<Error><Code>NoSuchKey</Code><Message>m</Message></Error>')
    assert said == ("NoSuchKey", "m", "")
    assert error_document("<Error xmlns='x'><Code>A</Code><Region>eu-west-1</Region></Error>") == (
        "A",
        "",
        "eu-west-1",
    )
    for text in (
        "",
        "default backend - 404",
        "<html><body><Code>NoSuchKey</Code></body></html>",
        "<Errors><Code>A",
    ):
        assert error_document(text) == ("", "", "")
    assert is_error_document(b"<Error><Code>SlowDown</Code></Error>")
    assert not is_error_document(b"\xff<Error>")
