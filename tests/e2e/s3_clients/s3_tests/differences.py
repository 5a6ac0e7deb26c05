"""Pure. Tests of Ceph's s3-tests that run at an endpoint and do not pass, and why. docs/s3.md has the same table.

Every such test is here, and none that passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

MIN_PASSED: Final = 150

# By reason: the tests, without `test_`.
DIFFERENCES: Final[Mapping[str, tuple[str, ...]]] = {
    "checksums are verified and echoed, and not stored: no read and no upload returns them": (
        *("object_checksum_sha256", "object_checksum_crc64nvme", "multipart_checksum_sha256"),
        "multipart_reupload_checksum_and_etag",
        *(f"multipart_use_cksum_helper_{name}" for name in ("sha256", "crc64nvme", "crc32", "crc32c", "sha1")),
    ),
    "GetObjectAttributes has no checksums, and of parts only their number": (
        *("get_checksum_object_attributes", "get_multipart_checksum_object_attributes"),
        *("get_multipart_object_attributes", "get_paginated_multipart_object_attributes"),
        "get_single_multipart_object_attributes",
    ),
    "a write has `If-Match` with one ETag or `If-None-Match: *`, and no other condition": (
        *("put_object_ifmatch_overwrite_existed_good", "put_object_ifmatch_nonexisted_failed"),
        *("put_object_ifnonmatch_good", "put_object_ifnonmatch_failed", "atomic_conditional_write_1mb"),
        *("put_object_if_match", "multipart_put_object_if_match", "delete_object_if_match"),
        *(f"delete_object{s}_if_match_{name}" for s in ("", "s") for name in ("last_modified_time", "size")),
    ),
    "reads with `partNumber` are not served": (
        *("multipart_get_part", "multipart_single_get_part", "non_multipart_get_part"),
    ),
    "ListBuckets names the buckets of the settings, all on one page": (
        *("buckets_create_then_list", "list_buckets_paginated"),
    ),
    "an upload that is not there is aborted without an error, since requests to S3 are repeated": (
        "abort_multipart_upload_not_found",
    ),
    "CompleteMultipartUpload names a part once": ("multipart_resend_first_finishes_last",),
    "a body is decoded if its `Content-Encoding` names `aws-chunked`": ("object_content_encoding_aws_chunked",),
    "a read of an object that is not there has no `x-amz-delete-marker`": ("delete_marker_nonversioned",),
    "the test demands what S3 itself does not do": (
        # S3 encodes the prefix in its reply, which boto3 does not decode there; it rejects an empty token, a range
        # beyond the source as InvalidArgument, and a negative expiry with 400.
        *("bucket_list_prefix_unreadable", "bucket_listv2_continuationtoken_empty", "multipart_copy_invalid_range"),
        "object_raw_put_authenticated_expired",
        # It returns metadata beyond ASCII in encoded words. The key is valid, and there is no such object.
        *("object_set_get_unicode_metadata", "object_read_unreadable"),
    ),
    "the client of the test sends the header that the test takes away": (
        *("object_create_bad_contentlength_none", "object_create_bad_authorization_empty"),
        "object_create_bad_authorization_none",
    ),
    "moto replies with 500 to an id that is none of its own": ("multipart_upload_complete_without_create",),
}


def contradictions(outcomes: Mapping[str, str | None]) -> list[str]:
    """Return what contradicts the table: failures that are not in it, and what is in it in vain.

    `outcomes`: the error of each test, None if it passed.
    """
    listed = {test for tests in DIFFERENCES.values() for test in tests}
    lines = [
        f"{test} fails: {error.strip().splitlines()[0][:300]}"
        for test, error in outcomes.items()
        if error is not None and test not in listed
    ]
    for test in sorted(listed):
        if test not in outcomes:
            lines.append(f"{test} did not run, and is listed as a difference")
        elif outcomes[test] is None:
            lines.append(f"{test} passes, and is listed as a difference")
    passed = sum(error is None for error in outcomes.values())
    if passed < MIN_PASSED:
        lines.append(f"{passed} tests pass; at least {MIN_PASSED} are to")
    return lines
