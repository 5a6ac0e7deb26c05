"""The table of the API's methods, against `proto/` and against the code that takes names from it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from milena_common.api import methods
from milena_common.api.methods import (
    METHODS,
    NODE_OPERATIONS,
    NODE_SERVICE,
    ROUTER_OPERATIONS,
    ROUTER_SERVICE,
    ApiMethod,
    Messages,
    served_by_node,
    served_by_router,
)
from milena_common.api.pb import cache_server_pb2, router_server_pb2

ROOT = Path(__file__).parents[3]
FOLDERS = ("milena_common", "milena_client", "milena_router", "milena_cache", "bench")
TABLE = Path(methods.__file__).relative_to(ROOT)

# The same words in another sense, by module.
OTHER_SENSES = {
    "milena_common/s3/wire/xml_input.py": {"Delete", "Size"},  # elements of S3's XML
    "milena_common/cluster/slot_assignment.py": {"Owner"},  # the owner of a key, a class
    "milena_router/ring/membership.py": {"Copy", "Join", "Leave"},  # kinds of changes of the ring
    "milena_router/forwarding/forward.py": {"Copy"},  # the same
    "milena_router/shared/shared_leases.py": {"Join", "Leave"},  # the same
    "milena_cache/servers/resp/commands/server/info_sections.py": {"Stats"},  # a section of INFO
    "milena_router/redis/local_commands.py": {"Stats"},  # the same
    "milena_client/admin.py": {"HotKeys"},  # a class
    "milena_cache/origin/clients/boto3_client.py": {"Size"},  # a field of S3's replies
    "milena_cache/origin/clients/boto3_uploads.py": {"Size"},  # the same
    "bench/peers/bare_chain.py": {"Get"},  # a service of its own, without code of Milena
}

SERVICES = [
    (ROUTER_SERVICE, router_server_pb2.DESCRIPTOR, lambda method: method.router),
    (NODE_SERVICE, cache_server_pb2.DESCRIPTOR, lambda method: method.node),
]


def messages(method: ApiMethod) -> Iterator[Messages]:
    yield from filter(None, (method.router, method.node))


@pytest.mark.parametrize(("service", "file", "messages_at"), SERVICES, ids=["router", "node"])
def test_the_table_has_the_methods_of_a_service_with_their_messages(service, file, messages_at) -> None:  # type: ignore[no-untyped-def]
    described = file.services_by_name[service.partition(".")[2]]
    assert described.full_name == service
    in_table = {method.name: messages_at(method) for method in METHODS if messages_at(method)}
    assert set(in_table) == {method.name for method in described.methods}
    for method in described.methods:
        assert [kind.DESCRIPTOR for kind in in_table[method.name]] == [method.input_type, method.output_type]


def test_the_table_has_the_form_of_each_method() -> None:
    forms = {
        (False, False): "unary",
        (False, True): "stream",
        (True, False): "upload",
        (True, True): "exchange",
    }
    for _, file, _ in SERVICES:
        for service in file.services_by_name.values():
            for method in service.methods:
                (row,) = (row for row in METHODS if row.name == method.name)
                assert row.form == forms[method.client_streaming, method.server_streaming]


def test_methods_of_the_owner_have_one_key() -> None:
    for method in METHODS:
        if method.to_owner:
            assert all("key" in kind.request.DESCRIPTOR.fields_by_name for kind in messages(method))


def test_names_of_methods_are_unique() -> None:
    assert len({method.name for method in METHODS}) == len(METHODS)


def test_a_service_counts_each_operation_once() -> None:
    assert "join" in ROUTER_OPERATIONS
    assert "invalidate" not in ROUTER_OPERATIONS
    assert "join" not in NODE_OPERATIONS
    for operations in (ROUTER_OPERATIONS, NODE_OPERATIONS):
        assert len(set(operations)) == len(operations)


def test_handlers_are_served_under_the_names_and_with_the_messages_of_the_table() -> None:
    handler = iter
    assert served_by_router({methods.KEEP_LEASE: handler}) == {
        "KeepLease": ("join", router_server_pb2.JoinRequest, handler)
    }
    assert served_by_node({methods.GET: handler}) == {"Get": ("get", cache_server_pb2.GetRequest, handler)}


def literals(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            yield node.value if isinstance(node.value, str) else node.value.decode(errors="replace")


def test_the_name_of_a_method_is_spelled_in_the_table_and_nowhere_else() -> None:
    names = {method.name for method in METHODS} | {ROUTER_SERVICE, NODE_SERVICE}
    in_table = [text for text in literals(ROOT / TABLE) if text in names]
    assert sorted(in_table) == sorted(names)
    spelled = [
        f"{where}: {text}"
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        if "pb" not in path.parts and (where := str(path.relative_to(ROOT))) != str(TABLE)
        for text in literals(path)
        if text.removeprefix("/") in names - OTHER_SENSES.get(where, set())
        or any(f"{service}/" in text for service in (ROUTER_SERVICE, NODE_SERVICE))
    ]
    assert spelled == []
