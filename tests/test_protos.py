"""The wire contract: generated code is what the .proto files say, and existing clients' fields stay as they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor

from milena_common.api.pb import cache_server_pb2, router_server_pb2

ROOT = Path(__file__).parent.parent
CACHE: FileDescriptor = cache_server_pb2.DESCRIPTOR
ROUTER: FileDescriptor = router_server_pb2.DESCRIPTOR

TYPES = {
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BOOL: "bool",
}
# What clients that were there before Milena's own know; {number: (name, type)}.
KEY_AND_BUCKET = {1: ("key", "bytes"), 2: ("bucket", "string")}
SUCCESSFUL = {1: ("successful", "bool")}
OBJECTS = {
    "GetRequest": KEY_AND_BUCKET,
    "GetResponse": {**SUCCESSFUL, 2: ("value", "bytes")},
    "PutRequest": {**KEY_AND_BUCKET, 3: ("value", "bytes")},
    "PutResponse": SUCCESSFUL,
    "DeleteRequest": KEY_AND_BUCKET,
    "DeleteResponse": SUCCESSFUL,
}
MEMBERSHIP = {
    "JoinRequest": {1: ("address", "string")},
    "JoinResponse": SUCCESSFUL,
    "LeaveRequest": {1: ("address", "string")},
    "LeaveResponse": SUCCESSFUL,
}

# Methods with streams: the names of their messages, and whether they are a stream, of requests and of replies.
STREAMS = {
    "WatchRing": ("WatchRingRequest", "RingUpdate", False, True),
    "KeepLease": ("JoinRequest", "JoinResponse", True, True),
    "Read": ("GetRequest", "GetResponse", False, True),
    "Write": ("UploadRequest", "UploadResponse", True, False),
}


# Types of the generated stubs, by the types of fields.
PYTHON_TYPES = {
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_STRING: "str",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_DOUBLE: "float",
}


def fields(message: Descriptor) -> dict[int, tuple[object, ...]]:
    """All that decides how a message is on the wire, and its names."""
    return {
        field.number: (
            field.name,
            field.type,
            field.is_repeated,
            fields(field.message_type) if field.message_type else None,
        )
        for field in message.fields
    }


def test_the_generated_code_is_up_to_date() -> None:
    finished = subprocess.run(
        [ROOT / "scripts/protos", "--check"],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


@pytest.mark.parametrize(
    ("file", "package", "service", "methods"),
    [
        (ROUTER, "router_server", "Router", {"Join", "Leave", "Get", "Put", "Delete"}),
        (CACHE, "cache_server", "Cache", {"Get", "Put", "Delete"}),
    ],
)
def test_packages_services_and_methods(file: FileDescriptor, package: str, service: str, methods: set[str]) -> None:
    assert file.package == package
    assert set(file.services_by_name) == {service}
    described = file.services_by_name[service].methods_by_name
    assert methods <= set(described)
    for name, method in described.items():
        if name in STREAMS:
            continue
        assert method.input_type is file.message_types_by_name[f"{name}Request"]
        assert method.output_type is file.message_types_by_name[f"{name}Response"]
        assert not method.client_streaming
        assert not method.server_streaming


def test_streams() -> None:
    for file, names in ((ROUTER, set(STREAMS)), (CACHE, {"Read", "Write"})):
        (service,) = file.services_by_name.values()
        described = service.methods_by_name
        assert {
            name for name, method in described.items() if method.client_streaming or method.server_streaming
        } == names
        for name in names:
            request, reply, of_requests, of_replies = STREAMS[name]
            assert described[name].input_type is file.message_types_by_name[request]
            assert described[name].output_type is file.message_types_by_name[reply]
            assert (described[name].client_streaming, described[name].server_streaming) == (of_requests, of_replies)


@pytest.mark.parametrize(
    ("file", "messages"), [(ROUTER, {**OBJECTS, **MEMBERSHIP}), (CACHE, OBJECTS)], ids=["router", "cache"]
)
def test_the_fields_that_others_rely_on(
    file: FileDescriptor, messages: dict[str, dict[int, tuple[str, str]]]
) -> None:
    for name, expected in messages.items():
        known = {
            field.number: (field.name, TYPES.get(field.type))
            for field in file.message_types_by_name[name].fields
            if field.number <= 3
        }
        assert known == expected, name


@pytest.mark.parametrize(
    "name",
    [
        *("Get", "Put", "Delete", "Upload", "Copy", "List", "Flush", "ListDeadLetters", "ResolveDeadLetters"),
        *("Refresh", "Sweep", "Warm"),
    ],
)
def test_the_router_may_pass_replies_on_unchanged(name: str) -> None:
    message = f"{name}Response"
    assert fields(ROUTER.message_types_by_name[message]) == fields(CACHE.message_types_by_name[message])


@pytest.mark.parametrize(
    "name", ["Copy", "List", "Flush", "ListDeadLetters", "ResolveDeadLetters", "Refresh", "Sweep", "Warm"]
)
def test_the_router_may_pass_requests_on_as_they_came(name: str) -> None:
    message = f"{name}Request"
    assert fields(ROUTER.message_types_by_name[message]) == fields(CACHE.message_types_by_name[message])


@pytest.mark.parametrize("name", ["Get", "Put", "Delete", "Upload"])
def test_a_request_field_of_the_router_has_the_same_number_at_the_node(name: str) -> None:
    router = fields(ROUTER.message_types_by_name[f"{name}Request"])
    assert router.items() <= fields(CACHE.message_types_by_name[f"{name}Request"]).items()


def test_what_an_existing_client_sends_is_read() -> None:
    """Bytes as the Rust project's clients write them."""
    put = router_server_pb2.PutRequest.FromString(b"\x0a\x01k\x12\x07default\x1a\x03abc")
    assert (put.key, put.bucket, put.value) == (b"k", "default", b"abc")
    join = router_server_pb2.JoinRequest.FromString(b"\x0a\x0chttp://a:1/x"[:14])
    assert join.address == "http://a:1/x"
    reply = cache_server_pb2.GetResponse(successful=True, value=b"abc").SerializeToString()
    assert reply == b"\x08\x01\x12\x03abc"


@pytest.mark.parametrize("file", [CACHE, ROUTER], ids=["cache", "router"])
def test_no_field_has_the_name_of_a_type_that_its_message_uses(file: FileDescriptor) -> None:
    """A generated stub would take the field for the type, and a wheel is not compiled from such stubs."""
    for message in file.message_types_by_name.values():
        types = {PYTHON_TYPES.get(field.type, "int") for field in message.fields}
        assert not types & {field.name for field in message.fields}, message.name
