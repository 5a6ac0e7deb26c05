"""INFO, CONFIG RESETSTAT, and the counts behind them."""

from __future__ import annotations

import pytest

from milena_cache.servers.resp.commands.server.info_sections import human
from milena_cache.servers.resp.statistics.rates import SAMPLES, Rates
from milena_common.resp.encoding import command
from tests.cache.servers.resp.server_under_test import ServerUnderTest, WireClient

# What exporters and dashboards for Redis look for; a real redis-server 7 has every one of them.
READ_BY_MONITORING = """
redis_version redis_mode os process_id run_id tcp_port uptime_in_seconds uptime_in_days
connected_clients maxclients blocked_clients tracking_clients cluster_connections
used_memory used_memory_human used_memory_rss used_memory_peak used_memory_overhead used_memory_dataset maxmemory
maxmemory_policy mem_fragmentation_ratio total_system_memory mem_clients_normal mem_allocator
loading rdb_changes_since_last_save rdb_bgsave_in_progress rdb_last_save_time rdb_last_bgsave_status aof_enabled
aof_last_write_status
total_connections_received total_commands_processed instantaneous_ops_per_sec total_net_input_bytes
total_net_output_bytes instantaneous_input_kbps rejected_connections expired_keys evicted_keys keyspace_hits
keyspace_misses tracking_total_keys total_error_replies
role connected_slaves master_replid master_repl_offset used_cpu_sys used_cpu_user cluster_enabled
"""


async def fields_of(client: WireClient, *sections: bytes) -> dict[str, str]:
    text = (await client.value(b"INFO", *sections)).decode()
    return dict(line.split(":", 1) for line in text.split("\r\n") if line and not line.startswith("#"))


async def sections(client: WireClient, *requested: bytes) -> list[str]:
    text = (await client.value(b"INFO", *requested)).decode()
    return [line[2:] for line in text.split("\r\n") if line.startswith("# ")]


async def test_the_fields_that_monitoring_reads() -> None:
    client = ServerUnderTest().connect()
    fields = await fields_of(client)
    assert set(READ_BY_MONITORING.split()) <= set(fields)
    assert (fields["redis_mode"], fields["role"], fields["cluster_enabled"]) == ("cluster", "master", "1")
    assert fields["redis_version"].startswith("7.")
    assert fields["milena_version"]
    assert int(fields["used_memory_rss"]) > 0


async def test_the_sections_that_are_requested() -> None:
    client = ServerUnderTest().connect()
    some = ["Server", "Clients", "Memory", "Persistence", "Stats", "Replication", "CPU", "Modules", "Errorstats"]
    assert await sections(client) == [*some, "Cluster", "Keyspace", "Milena"]
    assert await sections(client, b"default") == await sections(client)
    assert await sections(client, b"all") == [
        *some[:-1],
        "Commandstats",
        "Errorstats",
        "Cluster",
        "Keyspace",
        "Milena",
    ]
    assert await sections(client, b"everything") == await sections(client, b"ALL")
    assert await sections(client, b"keyspace", b"CPU", b"nosuch") == ["CPU", "Keyspace"]
    assert client.now(b"INFO", b"nosuch") == b"$0\r\n\r\n"
    client.now(b"HELLO", b"3")
    assert client.now(b"INFO", b"cluster") == b"=34\r\ntxt:# Cluster\r\ncluster_enabled:1\r\n\r\n"


async def test_hits_and_misses_are_milenas() -> None:
    server = ServerUnderTest()
    client = server.connect()
    await server.warm(client, "key", b"value")
    for _ in range(3):
        client.now(b"GET", b"key")
    fields = await fields_of(client)
    assert (fields["keyspace_hits"], fields["keyspace_misses"]) == ("3", "1")
    assert (fields["reads_hit"], fields["reads_miss"], fields["entries"]) == ("3", "1", "1")
    assert fields["db0"] == "keys=1,expires=0,avg_ttl=0"


async def test_commands_are_counted_whichever_way_they_go() -> None:
    server = ServerUnderTest()
    client = server.connect()
    await server.warm(client, "key", b"value")  # waits for S3
    client.send(command(b"GET", b"key") * 4)  # many at once
    client.send(command(b"GET", b"key") + command(b"PING"))  # one by one
    for argv in (b"CLIENT ID", b"GET", b"SELECT 1", b"NOSUCH"):
        client.now(*argv.split())
    fields = await fields_of(client, b"all")
    assert fields["cmdstat_get"].startswith("calls=6,usec=0,usec_per_call=0.00,rejected_calls=1,failed_calls=0")
    assert fields["cmdstat_select"].endswith("calls=1,usec=0,usec_per_call=0.00,rejected_calls=0,failed_calls=1")
    assert fields["cmdstat_client|id"].startswith("calls=1,")
    assert fields["errorstat_ERR"] == "count=3"
    assert fields["total_error_replies"] == "3"
    assert fields["total_commands_processed"] == "12"
    assert not any(name.startswith("cmdstat_:") or name == "cmdstat_" for name in fields)


async def test_the_time_of_a_command_is_until_its_reply() -> None:
    server = ServerUnderTest()
    client = server.connect()
    client.send(b"DEBUG SLEEP 2\r\n")
    await server.t.clock.advance(2)
    fields = await fields_of(client, b"commandstats")
    assert (
        fields["cmdstat_debug|sleep"]
        == "calls=1,usec=2000000,usec_per_call=2000000.00,rejected_calls=0,failed_calls=0"
    )


async def test_resetstat_is_about_what_info_shows_and_not_about_the_metrics() -> None:
    server = ServerUnderTest()
    client = server.connect()
    await server.warm(client, "key", b"value")
    client.now(b"GET", b"key")
    client.now(b"SELECT", b"1")
    assert client.now(b"CONFIG", b"RESETSTAT") == b"+OK\r\n"
    fields = await fields_of(client, b"all")
    for name in ("keyspace_hits", "keyspace_misses", "total_connections_received", "total_error_replies"):
        assert fields[name] == "0", name
    assert "cmdstat_get" not in fields
    assert (server.t.node.reads.hits, server.calls["get"].requests) == (1, 2)
    client.now(b"GET", b"key")
    fields = await fields_of(client, b"all")
    assert fields["keyspace_hits"] == "1"
    assert fields["cmdstat_get"].startswith("calls=1,")


async def test_the_rate_of_operations_is_that_of_the_last_sweeps() -> None:
    server = ServerUnderTest()
    client = server.connect()
    for _ in range(2 * SAMPLES):
        server.server.sweep()
        client.send(b"PING\r\n" * 30)
        await server.t.clock.advance(1)
    server.server.sweep()
    fields = await fields_of(client)
    assert fields["instantaneous_ops_per_sec"] == "30"
    assert fields["instantaneous_input_kbps"] == f"{30 * 6 / 1024:.2f}"


def test_no_growth_before_there_are_two_samples() -> None:
    rates = Rates(0.0)
    assert rates.per_second("x") == 0.0
    rates.sample(1.0, {"x": 5})
    assert rates.per_second("x") == 0.0
    rates.sample(3.0, {"x": 15})
    assert rates.per_second("x") == 5.0
    rates.restart({"x": 15})
    assert rates.per_second("x") == 0.0
    assert rates.since_reset({"x": 16, "y": 1}) == {"x": 1, "y": 1}


@pytest.mark.parametrize(
    ("size", "shown"), [(0, "0B"), (1023, "1023B"), (1536, "1.50K"), (5 * 2**20, "5.00M"), (2**50, "1024.00T")]
)
def test_sizes_for_people(size: int, shown: str) -> None:
    assert human(size) == shown
