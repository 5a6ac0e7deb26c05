"""Pure. The gRPC channel and server settings of every Milena process and client, each with its reason."""

from __future__ import annotations

from milena_common.limits.call_bytes import ENVELOPE_BYTES

Options = list[tuple[str, int]]

# The transport takes messages of so many bytes also where values may only be smaller, to reject them in words.
SMALLEST_FRAME_LIMIT = 64 * 2**20
# Methods of router and node whose requests carry a value, or any number of keys.
LARGE_REQUESTS = frozenset(("Put", "Flush", "ResolveDeadLetters"))
# Metadata of a call of these: the bytes of the serialized message. The server takes so much from its
# budget before it receives the request, and rejects one that is too large without receiving it.
REQUEST_BYTES = "milena-size"
# Under more load than there is processor time, calls wait in gRPC before they are begun: an event loop takes one a
# turn. Two bounds keep that queue short, each at a fraction of what a step of Python costs. gRPC ends calls that
# waited longer than MAX_PENDING_SECONDS, with CANCELLED; by default it is 30 s: then each call is begun when its
# caller has gone, and ended calls stay in memory. And a connection has so many calls in progress; clients keep the
# others, and end them at their deadline without a word to the server. (A router and a node on one core take 1,500
# calls a second. At 4 times that, from 8 connections, 97 % of the peak are answered in time; without the second
# bound 35 %, and memory grows by 450 MiB in 8 s. `python -m bench.programs.overload`.)
MAX_PENDING_SECONDS = 1
MAX_CALLS_PER_CONNECTION = 256


def channel_options() -> Options:
    """For clients of a router or node.

    Message sizes are the server's to limit: it knows `MAX_VALUE_BYTES`, and it says so in words.
    """
    return [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        # By default the pause between connection attempts grows to two minutes; a node is back sooner.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
        # Despite its name, this is the time that one attempt is given. It must suffice for the round trips to
        # another region, and for a machine that is busy.
        ("grpc.min_reconnect_backoff_ms", 2000),
        # Find out about a peer that vanished without a word, but only while calls wait for it. By default the pings
        # cease after two, unless data is sent; who only listens on a stream sends none.
        ("grpc.keepalive_time_ms", 15_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # The library waits this long for the answer to a ping, by default a minute, whatever the line above says. A
        # ping queues behind values that go over a slow line, so it must not be much shorter.
        ("grpc.http2.ping_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        # A proxy for the web, set in the environment for other programs, has no business between these.
        ("grpc.enable_http_proxy", 0),
        # Retries are Milena's own: they know the deadline, the ring and the retry budget.
        ("grpc.enable_retries", 0),
    ]


def server_options(max_value_bytes: int) -> Options:
    """For the gRPC door of a process that accepts values of at most `max_value_bytes`.

    The transport's own limit is wider than the value limit, so that a value that is too large reaches the door
    and is refused in words that name both sizes. It bounds no memory: gRPC gathers a message before it looks at
    its size.
    """
    return [
        ("grpc.server_max_unrequested_time_in_server", MAX_PENDING_SECONDS),
        ("grpc.max_concurrent_streams", MAX_CALLS_PER_CONNECTION),
        # By default gRPC measures the line and lets each call have megabytes on the way before anyone reads them.
        # Without that it is 64 KiB for a call that is not read; large values over a long line take longer.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.max_receive_message_length", max(2 * max_value_bytes, SMALLEST_FRAME_LIMIT) + ENVELOPE_BYTES),
        ("grpc.max_send_message_length", -1),
        # Two processes must not share a port in silence: half of the requests would go astray.
        ("grpc.so_reuseport", 0),
        # A connection that says nothing, or not HTTP/2, ends after this.
        ("grpc.server_handshake_timeout_ms", 10_000),
        # Find half-open connections; let clients with keepalive ping as often as ours do.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.ping_timeout_ms", 20_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.max_connection_idle_ms", 600_000),
    ]
