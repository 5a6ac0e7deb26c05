from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_client import AsyncMilena, Milena
from milena_client.admin import Admin
from milena_client.core.url import Target, as_target, from_environment, parse_duration, parse_url
from milena_common.api.credentials import Credentials
from milena_common.api.errors import ConfigError, InvalidRequest


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("milena://router", Target("router:50050")),
        ("milena://router/", Target("router:50050")),
        ("milena://10.0.0.1:1234", Target("10.0.0.1:1234")),
        ("milena://[::1]", Target("[::1]:50050")),
        ("milena://[::1]:7/logs", Target("[::1]:7", "logs")),
        ("milena://a,b:7,[::1]/logs", Target("a:50050,b:7,[::1]:50050", "logs")),
        ("milena://a,a:50050?timeout=1s", Target("a:50050", "", 1.0)),
        ("milena://router/default", Target("router:50050", "default")),
        ("milena://h:50050/my-bucket?timeout=500ms", Target("h:50050", "my-bucket", 0.5)),
        ("milena://h?timeout=2m", Target("h:50050", "", 120.0)),
        ("milena://h?timeout=1.5", Target("h:50050", "", 1.5)),
        ("milena://h?direct=true", Target("h:50050")),
        ("milena://h?direct=false&timeout=1s", Target("h:50050", "", 1.0, direct=False)),
    ],
)
def test_what_a_url_says(url: str, target: Target) -> None:
    assert parse_url(url) == target


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("", "milena://"),
        ("redis://h", "milena://"),
        ("h:50050", "milena://"),
        ("milena:h", "milena://"),
        ("milena://", "host"),
        ("milena://:50050", "host"),
        ("milena://h:0", "port"),
        ("milena://h,", "host"),
        ("milena://h,b:0", "port"),
        ("milena://h:99999", "port"),
        ("milena://h:x", "port"),
        ("milena://h:", "port"),
        ("milena://[::1", "IPv6"),
        ("milena://a b", "host"),
        ("milena://h/UPPER", "bucket"),
        ("milena://h/a/b", "bucket"),
        ("milena://h#part", "fragment"),
        ("milena://h?timeouts=1s", "'timeouts'"),
        ("milena://h?timeout=", "timeout"),
        ("milena://h?timeout=1h", "500ms"),
        ("milena://h?timeout=0", "timeout"),
        ("milena://h?timeout=9999999", "timeout"),
        ("milena://h?direct=no", "direct: got 'no'"),
    ],
)
def test_what_is_rejected_by_name(url: str, named: str) -> None:
    with pytest.raises(ConfigError, match=r"milena://\[USER:PASSWORD@\]HOST") as rejected:
        parse_url(url)
    assert named in str(rejected.value)


def test_a_password_is_not_repeated() -> None:
    with pytest.raises(ConfigError, match="port") as rejected:
        parse_url("milena://me:secret@host:99999")
    assert "secret" not in str(rejected.value)


@given(st.one_of(st.text(), st.text().map("milena://{}".format), st.text().map("milena://h?timeout={}".format)))
def test_any_text_is_a_target_or_a_config_error(text: str) -> None:
    try:
        target = parse_url(text)
    except ConfigError:
        return
    assert target.address


@given(st.integers(1, 86_400_000))
def test_durations_in_milliseconds(count: int) -> None:
    assert parse_duration(f"{count}ms") == pytest.approx(count / 1000)


@pytest.mark.parametrize("environ", [{}, {"MILENA_URL": ""}, {"MILENA_URL": "  "}])
def test_without_the_variable_it_is_this_machine(environ: dict[str, str]) -> None:
    target = from_environment(environ)
    assert target.address == "127.0.0.1:50050"
    assert "MILENA_URL is not set" in target.note


def test_the_variable_is_named_when_it_is_wrong() -> None:
    with pytest.raises(ConfigError, match=r"^MILENA_URL: ") as rejected:
        from_environment({"MILENA_URL": "http://h"})
    assert "url:" not in str(rejected.value)


def test_the_variable_is_named_when_its_address_cannot_be_reached() -> None:
    target = from_environment({"MILENA_URL": "milena://h/logs?timeout=1s"})
    assert (target.address, target.bucket, target.timeout) == ("h:50050", "logs", 1.0)
    assert "MILENA_URL" in target.note


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("router", Target("router:50050")),
        ("router:7", Target("router:7")),
        ("http://router:7/", Target("router:7")),
        ("::1:7", Target("[::1]:7")),
        ("[::1]", Target("[::1]:50050")),
        ("milena://h/my-bucket?timeout=500ms&direct=false", Target("h:50050", "my-bucket", 0.5, direct=False)),
    ],
)
def test_an_address_may_be_a_url(address: str, target: Target) -> None:
    assert as_target(address) == target


CLIENTS = (Milena, AsyncMilena)


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_client_takes_a_url_for_its_address_and_arguments_win(kind: type[Milena] | type[AsyncMilena]) -> None:
    client = kind("milena://h:7/url-bucket?timeout=3s&direct=false")
    options = client.options
    assert (client.address, options.bucket, options.timeout, options.direct) == ("h:7", "url-bucket", 3.0, False)
    options = kind("milena://h/url-bucket?timeout=3s&direct=false", bucket="mine", timeout=1.0, direct=True).options
    assert (options.bucket, options.timeout, options.direct) == ("mine", 1.0, True)
    assert (kind("h").options.timeout, kind("h").options.direct, kind("h").options.bucket) == (10.0, True, "")
    with pytest.raises(InvalidRequest, match="timeout"):
        kind("milena://h?timeout=3s", timeout=0)


def test_the_operators_client_takes_a_url() -> None:
    admin = Admin("milena://h:7/url-bucket?timeout=3s&direct=false")
    assert (admin.address, admin.options.bucket, admin.options.timeout) == ("h:7", "url-bucket", 3.0)


@pytest.mark.parametrize("kind", [*CLIENTS, Admin])
@pytest.mark.parametrize(
    ("address", "error", "said"),
    [
        ("", InvalidRequest, "host name"),
        ("h:x", InvalidRequest, "port"),
        ("h:99999", InvalidRequest, "port"),
        ("h:1,", InvalidRequest, "host name"),
        ("redis://h:6379", InvalidRequest, "scheme 'redis' is not supported"),
        ("https://h", InvalidRequest, "scheme 'https' is not supported"),
        ("user:secret@h:1", InvalidRequest, "user or password"),
        ("milena://secret@h", ConfigError, "USER:PASSWORD"),
        ("milena://:secret@h", ConfigError, "USER:PASSWORD"),
        ("milena://user:secret@x@h", ConfigError, "USER:PASSWORD"),
        ("milena://h?tmeout=1s", ConfigError, "'tmeout' is not known"),
    ],
)
def test_an_address_that_is_none_is_rejected_at_once_and_the_form_is_shown(
    kind: type[Milena], address: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said) as raised:
        kind(address)
    assert "milena://[USER:PASSWORD@]HOST[:PORT]" in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_url_may_have_a_login(kind: type[Milena]) -> None:
    client = kind.from_url("milena://alice:p%40ss%3Aw@h:7/bucket?timeout=1s")
    assert client.address == "h:7"
    assert client.options.credentials == Credentials("alice", "p@ss:w")
    assert "p@ss" not in repr(client.options)
    assert kind("h").options.credentials is None
