"""Pure. The gRPC channel and server settings of every Milena process and client, each with its reason.

`opening` and `server` pass them to gRPC. Where both sides of a connection have a setting, both are here, so that
they fit together.
"""

from __future__ import annotations

from milena_common.limits.call_bytes import ENVELOPE_BYTES

Options = list[tuple[str, int]]

# The transport accepts messages up to this size even where values must be smaller, so that Milena's own error, with
# both sizes, rejects them.
SMALLEST_FRAME_LIMIT = 64 * 2**20
# Metadata of a call with a large request (`ApiMethod.large_request`): the size of the serialized message in bytes.
# The server takes that from its budget before it receives the request, and rejects one that is too large without
# receiving it.
REQUEST_BYTES = "milena-size"
# Under overload, calls queue inside gRPC before they start: an event loop starts one per iteration. Two bounds keep
# that queue short, each at a fraction of the cost of a step of Python. gRPC ends calls that waited longer than
# MAX_PENDING_SECONDS, with CANCELLED; with the default of 30 s each call would start when its caller has gone, and
# ended calls would stay in memory. And a connection has at most MAX_CALLS_PER_CONNECTION calls in progress; clients
# queue the others, and end them at their deadline without a message to the server. (A router and a node on one core
# serve 1,500 calls a second. At 4 times that, from 8 connections, 97 % of the peak are served in time; without the
# second bound 35 %, and memory grows by 450 MiB in 8 s. `python -m bench.programs.overload`.)
MAX_PENDING_SECONDS = 1
MAX_CALLS_PER_CONNECTION = 256


# gRPC cannot end the connections of one client, and verifies a certificate in the handshake only. So each
# connection ends at an age (with a random tenth more or less): the client opens the next one, and calls in progress
# have time to end; streams that last are ended, and opened again.
_AGE: Options = [
    ("grpc.max_connection_age_ms", 300_000),
    ("grpc.max_connection_age_grace_ms", 60_000),
]


def channel_options() -> Options:
    """Return the options for clients of a router or node.

    The server limits message sizes, because its configuration has MAX_VALUE_BYTES, which its error names.
    """
    return [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        # By default the pause between connection attempts grows to two minutes; a node restarts faster.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
        # Despite its name, this is the timeout of one attempt. It must suffice for the round trips to another
        # region, and for a busy machine.
        ("grpc.min_reconnect_backoff_ms", 2000),
        # Detect a peer that vanished silently, but only while calls wait for it. By default the pings cease after
        # two, unless data is sent; a reader of a stream sends none.
        ("grpc.keepalive_time_ms", 15_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # The timeout of a ping, by default a minute, independent of the line above. A ping queues behind values on
        # a slow line, so it must not be much shorter.
        ("grpc.http2.ping_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        # A web proxy that the environment sets for other programs must not be used for these connections.
        ("grpc.enable_http_proxy", 0),
        # Milena retries by itself, considering the deadline, the ring and the retry budget.
        ("grpc.enable_retries", 0),
    ]


def server_options(max_value_bytes: int, *, verifies_clients: bool = False) -> Options:
    """Return the options for the gRPC server of a process that accepts values of at most `max_value_bytes`.

    `verifies_clients`: True if it demands certificates, so that connections must not outlive these for long.

    The transport's own limit is wider than the value limit, so that a value that is too large reaches the server
    and is rejected with an error that names both sizes. It does not bound memory: gRPC collects a message before it
    checks its size.
    """
    return [
        ("grpc.server_max_unrequested_time_in_server", MAX_PENDING_SECONDS),
        ("grpc.max_concurrent_streams", MAX_CALLS_PER_CONNECTION),
        # By default gRPC measures the line and allows each call megabytes in transit before they are read. Without
        # that it is 64 KiB for a call that is not read; large values over a long line take longer.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.max_receive_message_length", max(2 * max_value_bytes, SMALLEST_FRAME_LIMIT) + ENVELOPE_BYTES),
        ("grpc.max_send_message_length", -1),
        # Two processes must not silently share a port: half of the requests would reach the wrong one.
        ("grpc.so_reuseport", 0),
        # The timeout of a connection that sends nothing, or not HTTP/2.
        ("grpc.server_handshake_timeout_ms", 10_000),
        # Detect half-open connections; allow clients with keepalive to ping as often as Milena's do.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.ping_timeout_ms", 20_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.max_connection_idle_ms", 600_000),
        *(_AGE if verifies_clients else ()),
    ]
