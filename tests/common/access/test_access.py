"""Logins against the table of users, and what becomes of connections when it is replaced."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest

from milena_common.access.access import MAX_CREDENTIAL_BYTES, Access, Tokens
from milena_common.access.acl_file import parse_users
from milena_common.access.principals import ANONYMOUS, CLUSTER, EVERYONE
from milena_common.api.credentials import BEARER, Credentials
from milena_common.api.errors import AccessDenied, RateLimited, Unauthenticated
from tests.support.fake_clock import FakeClock

USERS = parse_users(
    b"user app on >one >two ~* +@all -@admin\nuser off off >x +@all\nuser twin on >two\nuser any on nopass"
)


class Audited:
    def __init__(self) -> None:
        self.events: list[tuple[str, Mapping[str, Any]]] = []

    def record(self, event: str, fields: Mapping[str, Any]) -> None:
        self.events.append((event, fields))


@pytest.fixture
def audited() -> Audited:
    return Audited()


@pytest.fixture
def access(audited: Audited) -> Access:
    return Access(FakeClock(), USERS, Tokens(("cluster-token",)), audited.record)


def basic(name: str, password: str) -> str:
    return "Basic " + b64encode(f"{name}:{password}".encode()).decode()


def test_without_users_and_tokens_everyone_may_do_everything() -> None:
    access = Access(FakeClock())
    assert access.is_open
    assert access.anonymous is EVERYONE
    assert not access.requires_login
    assert access.login("default", "anything", "a", "resp").guard is None


def test_with_a_token_alone_everyone_may_do_everything_but_what_is_for_the_cluster() -> None:
    access = Access(FakeClock(), tokens=Tokens(("t",)))
    assert access.protects_cluster
    assert access.anonymous.plain
    assert access.anonymous.guard is not None
    assert access.credentials() == Credentials(BEARER, "t")


def test_with_users_a_login_is_required(access: Access) -> None:
    assert access.requires_login
    assert access.anonymous is ANONYMOUS
    assert not ANONYMOUS.authenticated
    assert not ANONYMOUS.plain
    assert "permission" not in str(access.missing("a", "grpc"))
    assert access.failures["grpc", "missing"] == 1


@pytest.mark.parametrize("header", [basic("app", "one"), "Bearer one", "bearer one", basic("any", "")])
def test_headers_log_in(access: Access, header: str) -> None:
    assert access.login_header(header, "a", "http").name in ("app", "any")


@pytest.mark.parametrize(
    "header",
    [
        basic("app", "three"),
        basic("off", "x"),
        basic("nosuch", ""),
        "Bearer two",  # which two users have
        "Bearer x",
        "Bearer ",
        "Basic !",
        "Basic " + b64encode(b"\xff:\xff").decode(),
        "Basic " + b64encode(b"app").decode(),
        "Digest one",
        "",
        "Bearer " + "x" * MAX_CREDENTIAL_BYTES,
    ],
)
def test_wrong_headers_are_rejected_counted_and_audited(access: Access, audited: Audited, header: str) -> None:
    with pytest.raises(Unauthenticated):
        access.login_header(header, "10.0.0.1:9", "http")
    assert sum(access.failures.values()) == 1
    (event, fields), *rest = audited.events
    assert (event, rest) == ("login_failed", [])
    assert "password" not in fields


def test_the_token_of_the_cluster_and_the_one_before_it(access: Access) -> None:
    assert access.login(BEARER, "cluster-token", "a", "grpc") is CLUSTER
    access.replace_tokens(Tokens(("new", "cluster-token")))
    assert access.login(BEARER, "cluster-token", "a", "grpc") is CLUSTER
    assert access.credentials() == Credentials(BEARER, "new")
    access.replace_tokens(Tokens(("new",)))
    with pytest.raises(Unauthenticated):
        access.login(BEARER, "cluster-token", "a", "grpc")
    assert "new" not in repr(access.tokens)


def test_a_principal_is_renewed_by_the_new_table_or_not_at_all(access: Access) -> None:
    changed = []
    access.on_change.append(lambda: changed.append(1))
    app = access.login("app", "one", "a", "resp")
    access.replace_users(parse_users(b"user app on >one ~x +get"))
    renewed = access.renewed(app)
    assert renewed is not None
    assert renewed.guard is not None
    assert not renewed.guard.may_run("set")
    access.replace_users(parse_users(b"user app on >other +get"))
    assert access.renewed(app) is None
    access.replace_users(parse_users(b"user app off >one +get"))
    assert access.renewed(app) is None
    assert access.renewed(CLUSTER) is CLUSTER
    assert access.renewed(EVERYONE) is ANONYMOUS
    assert len(changed) == 3


async def test_logins_wait_and_are_rejected_when_there_are_too_many() -> None:
    clock = FakeClock()
    access = Access(clock, USERS)
    for _ in range(5):
        assert access.wait("10.0.0.1:1", "resp") == 0
        with pytest.raises(Unauthenticated):
            access.login("app", "wrong", "10.0.0.1:1", "resp")
    assert 0 < access.wait("10.0.0.1:2", "resp") < 1
    for _ in range(40):
        with suppress(RateLimited):
            access.wait("10.0.0.1:2", "resp")
    assert access.failures["resp", "throttled"] > 0
    assert access.wait("10.0.0.9:2", "resp") == 0
    await clock.advance(30)
    assert access.wait("10.0.0.1:2", "resp") == 0


@pytest.mark.parametrize(
    ("names", "user", "cluster"),
    [
        (("spiffe://example.org/milena/cache",), "(cluster)", True),
        (("app",), "app", False),
        (("nosuch", "app"), "app", False),
        (("off",), "default", False),
        ((), "default", False),
    ],
)
def test_a_certificate_is_a_login(names: tuple[str, ...], user: str, cluster: bool) -> None:
    access = Access(FakeClock(), USERS, cluster_names=("spiffe://example.org/milena/*",))
    principal = access.principal_of(names)
    assert (principal.name, principal.is_cluster) == (user, cluster)
    assert principal.authenticated is (user != "default")


def test_names_of_certificates_protect_what_is_between_nodes() -> None:
    access = Access(FakeClock(), cluster_names=("node-*",))
    assert access.protects_cluster
    assert access.anonymous.guard is not None
    assert access.principal_of(("node-1",)).guard is None


def test_only_the_cluster_makes_requests_for_a_user(access: Access, audited: Audited) -> None:
    app = access.login("app", "one", "a", "grpc")
    found = access.on_behalf_of(CLUSTER, "app", "r:1", "resp")
    assert (found.name, found.guard, found.how) == ("app", USERS["app"], "router")
    for name in ("off", "nobody", ""):
        with pytest.raises(Unauthenticated, match="does not know"):
            access.on_behalf_of(CLUSTER, name, "r:1", "resp")
    audited.events.clear()
    for principal in (app, ANONYMOUS):
        with pytest.raises(AccessDenied, match="may not make requests for other users"):
            access.on_behalf_of(principal, "any", "c:1", "grpc")
    assert [event for event, _ in audited.events] == ["denied", "denied"]
    assert audited.events[0][1] == {
        "user": "app",
        "address": "c:1",
        "port": "grpc",
        "command": "milena.call",
        "reason": "on_behalf_of",
        "for": "any",
    }
    assert access.log.entries[0].user == "default"


def test_users_are_named_to_nodes_and_the_cluster_is_not(access: Access) -> None:
    assert access.forwarded_name(access.login("app", "one", "a", "grpc")) == "app"
    assert access.forwarded_name(CLUSTER) == ""
    without = Access(FakeClock(), tokens=Tokens(("t",)))
    assert without.forwarded_name(without.anonymous) == ""
    assert without.on_behalf_of(CLUSTER, "app", "r:1", "resp") is CLUSTER
    assert Access(FakeClock()).on_behalf_of(EVERYONE, "app", "r:1", "resp") is EVERYONE
