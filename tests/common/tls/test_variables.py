"""The variables of TLS: what belongs together, and what does not."""

from __future__ import annotations

import re

import pytest

from milena_common.access.settings import load_access
from milena_common.network.addresses import Address
from milena_common.process.env import Environment
from milena_common.tls.settings import TlsConfig, TlsFiles
from milena_common.tls.variables import check_cluster_identity, load_tls

PAIR = {"TLS_CERT_FILE": "/c", "TLS_KEY_FILE": "/k"}
ALL = {**PAIR, "TLS_CA_FILE": "/a"}
RESP = Address("0.0.0.0", 6380)


def test_nothing_set_is_no_tls() -> None:
    assert load_tls(Environment({})) == TlsConfig()


def test_everything_set() -> None:
    env = Environment(
        {
            **ALL,
            "TLS": "both",
            "TLS_LISTEN_ADDR": "0.0.0.0:50060",
            "TLS_CLIENT_AUTH": "required",
            "TLS_MIN_VERSION": "1.3",
            "TLS_SERVER_NAME": "milena.internal",
            "TLS_RELOAD_SECONDS": "2",
        }
    )
    files = TlsFiles("/c", "/k", "/a", "required", "1.3", "milena.internal")
    assert load_tls(env) == TlsConfig("both", files, Address("0.0.0.0", 50060), 2)
    assert not env.problems


def test_grpc_has_no_cipher_of_tls_1_2_where_that_is_excluded() -> None:
    assert load_tls(Environment({**ALL, "TLS": "on"})).library_variables == {}
    found = load_tls(Environment({**ALL, "TLS": "on", "TLS_MIN_VERSION": "1.3"})).library_variables
    assert found == {"GRPC_SSL_CIPHER_SUITES": "ECDHE-PSK-AES256-CBC-SHA"}


def test_a_process_that_only_connects_needs_no_certificate() -> None:
    env = Environment({})
    assert load_tls(env, connects=True).files == TlsFiles()
    assert not env.problems


@pytest.mark.parametrize(
    ("variables", "resp", "problems"),
    [
        ({"TLS": "on"}, None, ["TLS_CERT_FILE: .*because TLS=on", "TLS_KEY_FILE: .*because TLS=on"]),
        ({}, RESP, ["TLS_CERT_FILE: .*RESP_TLS_ADDR", "TLS_KEY_FILE: .*RESP_TLS_ADDR"]),
        ({"TLS_KEY_FILE": "/k"}, None, ["TLS_CERT_FILE: .*because TLS_KEY_FILE is set"]),
        ({**PAIR, "TLS": "on", "TLS_CLIENT_AUTH": "required"}, None, ["TLS_CA_FILE: .*TLS_CLIENT_AUTH=required"]),
        ({**ALL, "TLS_CLIENT_AUTH": "required"}, None, ["TLS_CLIENT_AUTH: .*no port uses TLS"]),
        ({**ALL, "TLS": "on", "TLS_CLIENT_AUTH": "optional"}, None, ["TLS_CLIENT_AUTH: .*gRPC cannot request"]),
        ({**ALL, "TLS_CLIENT_AUTH": "optional"}, RESP, []),
        ({**ALL, "TLS": "both"}, None, ["TLS_LISTEN_ADDR: got nothing"]),
        ({**ALL, "TLS": "on", "TLS_LISTEN_ADDR": "h:1"}, None, ["TLS_LISTEN_ADDR: .*second gRPC port"]),
        ({"TLS": "yes"}, None, ["TLS: got 'yes'; allowed: off or on or both"]),
    ],
)
def test_what_does_not_fit_together_is_rejected_by_name(
    variables: dict[str, str], resp: Address | None, problems: list[str]
) -> None:
    env = Environment(variables)
    load_tls(env, resp)
    assert len(env.problems) == len(problems), env.problems
    for found, expected in zip(env.problems, problems, strict=True):
        assert re.match(expected, found), found


MUTUAL = {**ALL, "TLS": "on", "TLS_CLIENT_AUTH": "required"}
NAMES = {"CLUSTER_CERT_NAMES": "spiffe://milena/*"}
TOKEN = {"CLUSTER_TOKEN_FILE": "/t"}


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        (MUTUAL, "CLUSTER_CERT_NAMES: got nothing; .*join as a node; or set CLUSTER_TOKEN_FILE$"),
        ({**MUTUAL, **NAMES}, ""),
        ({**MUTUAL, **TOKEN}, ""),
        ({**MUTUAL, "TLS": "both", "TLS_LISTEN_ADDR": "h:1"}, ""),
        ({**MUTUAL, "TLS_CLIENT_AUTH": "off"}, ""),
        (NAMES, "CLUSTER_CERT_NAMES: got 'spiffe://milena/.*show their certificates to each other"),
        ({**MUTUAL, **NAMES, "TLS_CLIENT_AUTH": "off"}, "CLUSTER_CERT_NAMES: got 'spiffe://milena/"),
        ({**NAMES, **TOKEN}, ""),
        ({}, ""),
    ],
)
def test_with_certificates_of_both_sides_those_of_the_cluster_have_names(
    variables: dict[str, str], problem: str
) -> None:
    env = Environment(variables)
    check_cluster_identity(env, load_tls(env), load_access(env))
    if problem:
        (found,) = env.problems
        assert re.match(problem, found), found
    else:
        assert env.problems == []
