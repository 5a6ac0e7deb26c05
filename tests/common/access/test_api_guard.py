"""What the methods of the API need."""

from __future__ import annotations

from typing import Any

import pytest

from milena_common.access.access import Access, Tokens
from milena_common.access.acl_file import parse_users
from milena_common.access.api_guard import ApiGuard
from milena_common.access.principals import ANONYMOUS, CLUSTER, EVERYONE, Principal
from milena_common.api.errors import AccessDenied, RateLimited, Unauthenticated
from milena_common.api.methods import METHODS
from milena_common.api.pb import router_server_pb2 as pb
from tests.support.fake_clock import FakeClock

USERS = parse_users(
    b"user app on >p ~app/* %R~pub/* +@read +@write -milena.call|flush\n"
    b"user root on >r ~* +@all\nuser slow on >s ~* +@all rate:1\n"
)
KEYLESS = (
    *("Nodes", "Owner", "Stats", "Leave", "Flush", "Refresh", "Sweep", "Warm"),
    *("ListDeadLetters", "ResolveDeadLetters", "Size", "HotKeys"),
)


@pytest.fixture
def guard() -> ApiGuard:
    return ApiGuard(Access(FakeClock(), USERS, Tokens(("t",))), lambda: "main", lambda: 0.0)


def of(guard: ApiGuard, name: str, password: str) -> Principal:
    return guard.access.login(name, password, "a", "grpc")


def request_of(method: str) -> Any:
    return getattr(pb, f"{'Join' if method == 'KeepLease' else method}Request", pb.GetRequest)()


@pytest.mark.parametrize("method", [method.name for method in METHODS])
def test_every_method_needs_a_login_and_one_that_is_for_the_cluster_its_identity(
    guard: ApiGuard, method: str
) -> None:
    request = request_of(method)
    assert guard.authorize(CLUSTER, method, request, "a", "grpc") is None
    assert guard.authorize(EVERYONE, method, request, "a", "grpc") is None
    with pytest.raises(Unauthenticated):
        guard.authorize(ANONYMOUS, method, request, "a", "grpc")
    root = of(guard, "root", "r")
    if method in ("Join", "KeepLease", "Invalidate", "CheckMember", "AbandonMoves"):
        with pytest.raises(AccessDenied):
            guard.authorize(root, method, request, "a", "grpc")
    else:
        guard.authorize(root, method, request, "a", "grpc")


@pytest.mark.parametrize(
    ("method", "key", "allowed"),
    [
        ("Get", "app/1", True),
        ("Get", "pub/1", True),
        ("Get", "x", False),
        ("Put", "app/1", True),
        ("Put", "pub/1", False),
        ("Upload", "app/1", True),
        ("Upload", "pub/1", False),
        ("Delete", "app/1", True),
        ("Delete", "pub/1", False),
    ],
)
def test_objects_by_key(guard: ApiGuard, method: str, key: str, allowed: bool) -> None:
    app = of(guard, "app", "p")
    for bucket in ("", "main", "default"):
        request = getattr(pb, f"{method}Request")(key=key.encode(), bucket=bucket)
        if allowed:
            guard.authorize(app, method, request, "a", "grpc")
        else:
            with pytest.raises(AccessDenied, match="No permissions to access a key"):
                guard.authorize(app, method, request, "a", "grpc")
    with pytest.raises(AccessDenied):
        guard.authorize(app, method, getattr(pb, f"{method}Request")(key=b"app/1", bucket="other"), "a", "grpc")


@pytest.mark.parametrize("method", KEYLESS)
def test_what_operators_do_is_not_for_others(guard: ApiGuard, method: str) -> None:
    with pytest.raises(AccessDenied, match="User app has no permissions"):
        guard.authorize(of(guard, "app", "p"), method, request_of(method), "a", "grpc")


def test_waiting_for_ones_own_writes_needs_their_keys(guard: ApiGuard) -> None:
    app = of(guard, "app", "p")
    guard.authorize(app, "Flush", pb.FlushRequest(keys=[b"app/1", b"app/2"]), "a", "grpc")
    with pytest.raises(AccessDenied):
        guard.authorize(app, "Flush", pb.FlushRequest(keys=[b"app/1", b"x"]), "a", "grpc")


def test_warming_is_for_operators_and_of_keys_that_they_may_read() -> None:
    users = parse_users(b"user ops on >o %R~app/* +@read +milena.call|warm\nuser app on >p ~app/* +@read +@write\n")
    guard = ApiGuard(Access(FakeClock(), users, Tokens(("t",))), lambda: "main", lambda: 0.0)
    guard.authorize(of(guard, "ops", "o"), "Warm", pb.WarmRequest(keys=[b"app/1"]), "a", "grpc")
    for name, password, key in (("ops", "o", b"x"), ("app", "p", b"app/1")):
        with pytest.raises(AccessDenied):
            guard.authorize(of(guard, name, password), "Warm", pb.WarmRequest(keys=[key]), "a", "grpc")


def test_lists_are_filtered(guard: ApiGuard) -> None:
    page = pb.ListResponse(
        objects=[pb.ObjectInfo(key=key) for key in (b"app/1", b"pub/1", b"x")],
        prefixes=[b"app/", b"secret/", b"pub/"],
        cursor="next",
    ).SerializeToString()
    filtered = guard.authorize(of(guard, "app", "p"), "List", pb.ListRequest(), "a", "grpc")
    assert filtered is not None
    found = pb.ListResponse.FromString(filtered(page))
    assert [each.key for each in found.objects] == [b"app/1", b"pub/1"]
    assert list(found.prefixes) == [b"app/", b"pub/"]
    assert found.cursor == "next"
    filtered = guard.authorize(of(guard, "app", "p"), "List", pb.ListRequest(bucket="other"), "a", "grpc")
    assert filtered is not None
    assert not pb.ListResponse.FromString(filtered(page)).objects
    assert guard.authorize(of(guard, "root", "r"), "List", pb.ListRequest(), "a", "grpc") is None


def test_limits_of_users(guard: ApiGuard) -> None:
    slow = of(guard, "slow", "s")
    guard.authorize(slow, "Get", pb.GetRequest(key=b"a"), "a", "grpc")
    with pytest.raises(RateLimited):
        guard.authorize(slow, "Get", pb.GetRequest(key=b"a"), "a", "grpc")


@pytest.mark.parametrize(
    ("source", "target", "allowed"),
    [("app/1", "app/2", True), ("pub/1", "app/2", True), ("app/1", "pub/2", False), ("x", "app/2", False)],
)
def test_a_copy_needs_reading_its_source_and_writing_its_key(
    guard: ApiGuard, source: str, target: str, allowed: bool
) -> None:
    request = pb.CopyRequest(source_key=source.encode(), key=target.encode())
    app = of(guard, "app", "p")
    if allowed:
        assert guard.authorize(app, "Copy", request, "a", "grpc") is None
    else:
        with pytest.raises(AccessDenied):
            guard.authorize(app, "Copy", request, "a", "grpc")


def test_hot_keys_are_those_that_the_user_may_see_and_a_reset_needs_more() -> None:
    users = parse_users(b"user ops on >o ~app/* -@all +hotkeys|get\nuser root on >r ~* +@all\n")
    guard = ApiGuard(Access(FakeClock(), users, Tokens(())), lambda: "main", lambda: 0.0)
    ops = of(guard, "ops", "o")
    keys = [pb.HotKey(key=b"app/1", reads=5), pb.HotKey(key=b"x", reads=9), pb.HotKey(key=b"app/1", bucket="b")]
    response = pb.HotKeysResponse(nodes=[pb.NodeHotKeys(address="n:1", reads=14, by_reads=keys, by_bytes=keys[1:])])
    shown = guard.authorize(ops, "HotKeys", pb.HotKeysRequest(), "a", "grpc")
    assert shown is not None
    (node,) = pb.HotKeysResponse.FromString(shown(response.SerializeToString())).nodes
    assert (node.address, node.reads) == ("n:1", 14)
    assert [(each.bucket, each.key) for each in node.by_reads] == [("", b"app/1")]
    assert [*node.by_bytes] == []
    with pytest.raises(AccessDenied):
        guard.authorize(ops, "HotKeys", pb.HotKeysRequest(reset=True), "a", "grpc")
    assert guard.authorize(of(guard, "root", "r"), "HotKeys", pb.HotKeysRequest(reset=True), "a", "grpc") is None
    with pytest.raises(AccessDenied):
        guard.authorize(ops, "Size", pb.SizeRequest(), "a", "grpc")
