"""gRPC takes any option without a word, so a name that it does not know would have no effect and no notice."""

from __future__ import annotations

from pathlib import Path

import pytest
from grpc._cython import cygrpc

from milena_common.rpc.options import channel_options, server_options


@pytest.fixture(scope="module")
def library() -> bytes:
    return Path(cygrpc.__file__).read_bytes()


@pytest.mark.parametrize("name", sorted({name for name, _ in channel_options() + server_options(1)}))
def test_the_library_knows_every_option(library: bytes, name: str) -> None:
    assert name.encode() + b"\0" in library


def test_pings_notice_within_25_seconds_that_a_router_vanished_and_go_on_while_a_stream_is_silent() -> None:
    options = dict(channel_options())
    assert options["grpc.http2.max_pings_without_data"] == 0
    assert options["grpc.keepalive_time_ms"] + options["grpc.http2.ping_timeout_ms"] <= 25_000


def test_a_server_takes_the_pings_that_clients_send() -> None:
    """Or it would close the connection after the third."""
    taken = dict(server_options(1))["grpc.http2.min_ping_interval_without_data_ms"]
    assert taken < dict(channel_options())["grpc.keepalive_time_ms"]


def test_the_calls_that_wait_to_be_begun_are_bounded_by_connection_and_time() -> None:
    options = dict(server_options(1000))
    assert options["grpc.max_concurrent_streams"] == 256
    assert options["grpc.server_max_unrequested_time_in_server"] == 1
    assert options["grpc.http2.bdp_probe"] == 0
