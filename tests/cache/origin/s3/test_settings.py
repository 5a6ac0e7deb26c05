"""One configuration of S3 for both clients, resolved from the environment."""

from __future__ import annotations

import pytest

from milena_cache.origin.s3.settings import ONE_SIDED, S3Settings, StaticCredentials, bypasses_proxy, load_s3
from milena_common.api.errors import ConfigError
from milena_common.process.env import Environment

REGION = {"AWS_REGION": "eu-central-1"}
SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"


def loaded(**variables: str) -> S3Settings:
    env = Environment({**REGION, **variables})
    settings = load_s3(env)
    env.check()
    return settings


def problems(**variables: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(**variables)
    return list(caught.value.problems)


def test_the_endpoint_is_that_of_the_most_specific_variable() -> None:
    assert loaded().endpoint_url == ""
    given = {
        "AWS_ENDPOINT_URL": "http://a:1",
        "AWS_ENDPOINT_URL_S3": "http://b:2/",
        "S3_ENDPOINT_URL": "http://c:3",
    }
    assert loaded(AWS_ENDPOINT_URL="http://a:1").endpoint_url == "http://a:1"
    assert loaded(**{**given, "S3_ENDPOINT_URL": ""}).endpoint_url == "http://b:2"
    assert loaded(**given).endpoint_url == "http://c:3"
    assert loaded(S3_ENDPOINT_URL="http://c:3/storage/v1/s3/").endpoint_url == "http://c:3/storage/v1/s3"


@pytest.mark.parametrize("variable", ["S3_ENDPOINT_URL", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_an_endpoint_that_no_client_could_use_is_rejected_by_the_variable_that_it_came_from(variable: str) -> None:
    assert problems(**{variable: "minio:9000"})[0].startswith(f"{variable}: got 'minio:9000'")
    [problem] = problems(**{variable: f"http://user:{SECRET}@c:3"})
    assert problem.startswith(f"{variable}: ")
    assert SECRET not in problem


@pytest.mark.parametrize("region", ['"us-east-1"', "'us-east-1'", "us east 1", "us-east-1;", "-"])
def test_a_region_that_would_never_work_is_rejected(region: str) -> None:
    assert problems(AWS_REGION=region)[0].startswith("AWS_REGION: got ")


@pytest.mark.parametrize("region", ["us-east-1", " us-east-1\n", "RegionOne", "us-gov-west-1"])
def test_a_region_is_taken_without_the_space_around_it(region: str) -> None:
    assert loaded(AWS_REGION=region).region == region.strip()


@pytest.mark.parametrize("variable", ONE_SIDED)
def test_what_only_one_client_could_do_is_rejected_by_name(variable: str) -> None:
    assert problems(**{variable: "true"})[0].startswith(f"{variable}: ")
    assert loaded(**{variable: "false"}) == loaded()


def test_credentials_of_the_environment_are_stripped() -> None:
    given = loaded(AWS_ACCESS_KEY_ID=" AKIAX\n", AWS_SECRET_ACCESS_KEY=f"{SECRET}\r\n", AWS_SESSION_TOKEN="tok\n")
    assert given.credentials == StaticCredentials("AKIAX", SECRET, "tok")
    assert loaded().credentials is None


@pytest.mark.parametrize(
    "value", [f'"{SECRET}"', f"{SECRET[:10]}\n{SECRET[10:]}", f"{SECRET} x", f"ü{SECRET}", f"\x00{SECRET}"]
)
@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"])
def test_credentials_that_no_request_can_carry_are_rejected_without_showing_them(variable: str, value: str) -> None:
    given = {"AWS_ACCESS_KEY_ID": "AKIAX", "AWS_SECRET_ACCESS_KEY": "s", variable: value}
    [problem] = problems(**given)
    assert problem.startswith(f"{variable}: ")
    assert SECRET[:10] not in problem


def test_half_of_the_credentials_is_rejected() -> None:
    assert problems(AWS_ACCESS_KEY_ID="AKIAX")[0].startswith("AWS_SECRET_ACCESS_KEY: got nothing")
    assert problems(AWS_SECRET_ACCESS_KEY="s")[0].startswith("AWS_ACCESS_KEY_ID: got nothing")


def test_secrets_are_not_in_the_settings_repr() -> None:
    given = loaded(
        AWS_ACCESS_KEY_ID="AKIAX",
        AWS_SECRET_ACCESS_KEY=SECRET,
        AWS_SESSION_TOKEN=f"t{SECRET}",
        HTTPS_PROXY=f"http://u:{SECRET}@proxy:3128",
    )
    assert SECRET not in repr(given)


PROXY = "http://proxy:3128"


@pytest.mark.parametrize(
    ("endpoint", "variables", "proxy"),
    [
        ("http://s3:9000", {"HTTP_PROXY": PROXY}, PROXY),
        ("http://s3:9000", {"http_proxy": PROXY, "HTTP_PROXY": "http://other:1"}, PROXY),
        ("http://s3:9000", {"HTTPS_PROXY": PROXY}, ""),
        ("https://s3:9000", {"HTTPS_PROXY": PROXY, "HTTP_PROXY": "http://other:1"}, PROXY),
        ("http://s3:9000", {"ALL_PROXY": PROXY}, PROXY),
        ("http://s3:9000", {"all_proxy": PROXY, "http_proxy": "http://first:1"}, "http://first:1"),
        ("http://s3:9000", {"ALL_PROXY": "proxy:3128"}, PROXY),
        ("http://s3:9000", {"HTTP_PROXY": PROXY, "NO_PROXY": "s3"}, ""),
        ("http://s3:9000", {"HTTP_PROXY": PROXY, "no_proxy": "s3", "NO_PROXY": "other"}, ""),
        ("", {"HTTPS_PROXY": PROXY}, PROXY),
        ("", {"HTTPS_PROXY": PROXY, "NO_PROXY": ".amazonaws.com"}, ""),
    ],
)
def test_the_proxy_is_found_as_other_tools_find_it(endpoint: str, variables: dict[str, str], proxy: str) -> None:
    assert loaded(S3_ENDPOINT_URL=endpoint, **variables).proxy_url == proxy


@pytest.mark.parametrize("proxy", [f"socks5://u:{SECRET}@p:1", f"http://u:{SECRET}@", f"http://u:{SECRET}@p:0"])
def test_a_proxy_that_both_clients_cannot_use_is_rejected_without_showing_it(proxy: str) -> None:
    [problem] = problems(HTTPS_PROXY=proxy)
    assert problem.startswith("HTTPS_PROXY: ")
    assert SECRET not in problem


@pytest.mark.parametrize(
    ("variables", "file"),
    [
        ({"HTTPS_PROXY_FILE": "/p"}, "/p"),
        ({"ALL_PROXY_FILE": "/a", "HTTPS_PROXY_FILE": "/p"}, "/p"),
        ({"ALL_PROXY_FILE": "/a"}, "/a"),
        ({"https_proxy": PROXY, "HTTPS_PROXY_FILE": "/p"}, ""),
        ({"HTTP_PROXY_FILE": "/p"}, ""),
        ({"HTTPS_PROXY_FILE": "/p", "NO_PROXY": "*"}, ""),
    ],
)
def test_a_proxy_may_be_in_a_file(variables: dict[str, str], file: str) -> None:
    assert loaded(**variables).proxy_file == file


def test_a_proxy_is_not_in_a_variable_and_a_file() -> None:
    [problem] = problems(HTTPS_PROXY=f"http://u:{SECRET}@p:1", HTTPS_PROXY_FILE="/p")
    assert problem.startswith("HTTPS_PROXY: ")
    assert "not together with HTTPS_PROXY_FILE" in problem
    assert SECRET not in problem


@pytest.mark.parametrize(
    ("excluded", "url", "bypassed"),
    [
        ("", "http://s3:9000", False),
        ("*", "http://s3:9000", True),
        ("a, b,s3", "http://s3:9000", True),
        ("a b s3", "http://s3:9000", True),
        ("S3", "http://s3:9000", True),
        ("s3:9000", "http://s3:9000", True),
        ("s3:9001", "http://s3:9000", False),
        ("s3:443", "https://s3", True),
        ("s3:80", "http://s3", True),
        ("example.com", "http://s3.example.com", True),
        (".example.com", "http://s3.example.com", True),
        ("*.example.com", "http://s3.example.com", True),
        ("example.com", "http://example.com", True),
        ("example.com", "http://notexample.com", False),
        ("127.0.0.0/8", "http://127.0.0.1:9000", True),
        ("10.0.0.0/8", "http://127.0.0.1:9000", False),
        ("10.0.0.0/8", "http://s3:9000", False),
        ("127.0.0.1", "http://127.0.0.1:9000", True),
        ("127.0.0.1:9000", "http://127.0.0.1:9000", True),
        ("127.0.0.1:1", "http://127.0.0.1:9000", False),
        ("::1", "http://[::1]:9000", True),
        ("[::1]", "http://[::1]:9000", True),
        ("[::1]:9000", "http://[::1]:9000", True),
        ("[::1]:9001", "http://[::1]:9000", False),
        ("fd00::/8", "http://[fd00::5]:9000", True),
        (",. ,:1,//,[", "http://s3:9000", False),
    ],
)
def test_no_proxy_is_understood_in_every_form(excluded: str, url: str, bypassed: bool) -> None:
    assert bypasses_proxy(excluded, url) is bypassed
