"""Paths of objects: which bucket and key they name, and the error for those that name none."""

from __future__ import annotations

import pytest

from milena_common.api.errors import InvalidRequest
from milena_common.api.object_path import ObjectPath, parse_path


@pytest.mark.parametrize(
    ("path", "bucket", "key", "below"),
    [
        ("milena://bucket/a/b", "bucket", "a/b", "a/b/"),
        ("bucket/a/b/", "bucket", "a/b", "a/b/"),
        ("/bucket", "bucket", "", ""),
        ("milena://default/a//b", "default", "a//b", "a//b/"),
        ("milena://bucket/milena://x", "bucket", "milena://x", "milena://x/"),
    ],
)
def test_a_path_names_a_bucket_and_a_key(path: str, bucket: str, key: str, below: str) -> None:
    place = parse_path(path)
    assert place == ObjectPath(bucket, key)
    assert place.below == below
    assert parse_path(str(place)) == place


@pytest.mark.parametrize("path", ["", "milena://", "milena://router:50050/bucket/key", "A/key", "b/key"])
def test_a_path_without_a_bucket_is_an_error_that_names_where_the_router_belongs(path: str) -> None:
    with pytest.raises(InvalidRequest, match=r"is not milena://BUCKET/KEY.*MILENA_URL"):
        parse_path(path)
