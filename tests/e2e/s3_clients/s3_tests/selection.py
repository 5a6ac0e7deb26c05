"""Pure. Which of the s3-tests of Ceph run at an endpoint, and why the others do not.

The plugin imports it in an environment without Milena, so that it imports nothing else of the tests.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

FILES: Final = ("s3tests/functional/test_s3.py", "s3tests/functional/test_headers.py")

# Why tests do not run: by their markers.
MARKERS: Final[Mapping[str, tuple[str, ...]]] = {
    "the configuration of buckets is not an operation of the endpoint": (
        *("lifecycle", "lifecycle_expiration", "lifecycle_transition", "cloud_transition", "cloud_restore"),
        *("bucket_logging", "bucket_logging_cleanup", "s3website", "bucket_policy", "object_ownership"),
        *("bucket_encryption", "sns"),
    ),
    "encryption by headers is refused": ("encryption", "sse_s3"),
    "there is no object lock": ("object_lock",),
    "users are not made over S3": ("iam_account", "iam_tenant", "iam_user"),
    "only Ceph has it": ("appendobject",),
}

# Why tests do not run: by expressions for their whole names, without `test_`.
NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "there are no versions": (
        *("version.*", ".*_version(s|ing|ed|id)?(_.*)?", "delete_marker_(versioned|suspended|expiration)"),
        *(".*_current_(object_)?if_(none_)?match.*", "put_object_current_if_match"),
    ),
    "there are no tags": (r".*(^|_)tag(s|ging)?(_.*)?",),
    "uploads by a browser's form are not an operation of the endpoint": ("post_object_.*",),
    "the configuration of buckets is not an operation of the endpoint": (
        *(
            ".*policy.*",
            ".*public_(block|policy|acls).*",
            "block_public.*",
            "put_public.*",
            ".*cors_(?!presigned).*",
        ),
        *("set_cors", "logging_.*", "put_get_delete_public_block", "get_undefined_public_block"),
    ),
    "buckets are not made or deleted through the endpoint": (
        *("bucket_create_(?!special).*", "bucket_recreate.*", "bucket_delete.*", "bucket_list_long_name"),
        *("bucket_put_bad_canned_acl", "bucket_get_location"),
    ),
    "permissions are those of ACL_FILE, and ACLs are always those of a private object": (
        *(
            ".*(^|_)acls?(_.*)?",
            "access_bucket_.*",
            "object_anon_put_write_access",
            "bucket_listv?2?_objects_anonymous",
        ),
        *("object_copy_not_owned_.*bucket", "bucket_concurrent_set_canned_acl", "list_buckets_anonymous"),
        *("object_raw_get.*", "object_raw_response_headers", "object_raw_authenticated.*", "100_continue"),
        *("object_delete_key_bucket_gone", "cors_presigned_.*", "list_multipart_upload_owner"),
    ),
    "there is no object lock": ("object_lock_.*",),
    "only Ceph has it": (
        *("account_usage", "head_bucket_usage", "bucket_head_extended", ".*_unordered", "get_object_torrent"),
        *(".*expected_bucket_owner.*", ".*_ownership_.*"),
    ),
    "signatures of version 2 in headers are refused": (".*_aws2",),
}


def reason_of(name: str, markers: Collection[str]) -> str | None:
    """Return why a test does not run; None if it does. `name`: of its function."""
    for reason, names in MARKERS.items():
        if any(each in markers for each in names):
            return reason
    bare = name.partition("[")[0].removeprefix("test_")
    for reason, expressions in NAMES.items():
        if any(re.fullmatch(each, bare) for each in expressions):
            return reason
    return None
