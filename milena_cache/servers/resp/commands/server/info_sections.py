"""Pure. The fields of INFO by section: those that monitoring tools for Redis read, and Milena's own.

Fields of features that Milena does not have (replication, snapshots, scripts) have the value of a Redis that does
not use them, where a tool would miss them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha1

from milena_cache.objects.read_outcomes import HITS, MISSES
from milena_cache.servers.resp.state.context import Context
from milena_common.resp.redis_replies import REDIS_VERSION

Fields = Mapping[str, object]

DAY = 86400
UNITS = ("B", "K", "M", "G", "T")
POLICY = "allkeys-lru"


def totals(context: Context) -> dict[str, int]:
    """Return the counts since the node started, over open and closed connections."""
    clients, reads = context.clients, context.node.reads
    commands, received, sent = clients.commands, clients.received, clients.sent
    for client in clients.by_id.values():
        session = client.session
        commands += session.commands
        received += session.received
        sent += session.sent
    return {
        "connections": clients.accepted,
        "refused": clients.rejected,
        "commands": commands,
        "received": received,
        "sent": sent,
        "hits": reads.hits,
        "misses": reads.misses,
        "evictions": sum(context.node.memory.evictions.values()),
        "expired": context.node.writes.reaper.removed,
    }


def human(size: float) -> str:
    """Format a number of bytes as Redis's `_human` fields do: 1.59M."""
    for unit in UNITS[:-1]:
        if size < 1024:
            return f"{size:.0f}B" if unit == "B" else f"{size:.2f}{unit}"
        size /= 1024
    return f"{size:.2f}{UNITS[-1]}"


def server(context: Context) -> Fields:
    clock, facts = context.clock, context.facts
    uptime = int(clock.now() - context.rates.started)
    started = clock.wall() - (clock.now() - context.rates.started)
    address = context.config.resp
    return {
        "redis_version": REDIS_VERSION,
        "redis_git_sha1": "00000000",
        "redis_git_dirty": 0,
        "redis_build_id": sha1(facts.version.encode(), usedforsecurity=False).hexdigest()[:16],
        "redis_mode": "cluster",
        "os": facts.system,
        "arch_bits": 64,
        "multiplexing_api": "asyncio",
        "process_id": facts.pid,
        "process_supervised": "no",
        "run_id": sha1(
            f"{context.ownership.me} {facts.pid} {started:.0f}".encode(), usedforsecurity=False
        ).hexdigest(),
        "tcp_port": address.port if address else 0,
        "server_time_usec": int(clock.wall() * 1e6),
        "uptime_in_seconds": uptime,
        "uptime_in_days": uptime // DAY,
        "hz": 1,
        "configured_hz": 1,
        "lru_clock": int(clock.wall()) & 0xFFFFFF,
        "executable": "milena-cache",
        "config_file": "",
        "io_threads_active": 0,
        "milena_version": facts.version,
    }


def clients(context: Context) -> Fields:
    members = context.clients.by_id.values()
    return {
        "connected_clients": len(context.clients),
        "cluster_connections": 0,
        "maxclients": context.config.resp_max_connections,
        "client_recent_max_input_buffer": max((client.unread for client in members), default=0),
        "client_recent_max_output_buffer": max((client.unsent for client in members), default=0),
        "blocked_clients": 0,
        "tracking_clients": context.tracking.clients,
        "clients_in_timeout_table": 0,
    }


def memory(context: Context) -> Fields:
    held, dirty, usage = context.node.memory, context.node.dirty, context.facts.usage()
    used = held.bytes + dirty.memory_bytes
    return {
        "used_memory": used,
        "used_memory_human": human(used),
        "used_memory_rss": usage.resident,
        "used_memory_rss_human": human(usage.resident),
        "used_memory_peak": usage.peak,
        "used_memory_peak_human": human(usage.peak),
        "used_memory_peak_perc": f"{100 * usage.resident / max(1, usage.peak):.2f}%",
        "used_memory_overhead": max(0, usage.resident - used),
        "used_memory_startup": 0,
        "used_memory_dataset": used,
        "used_memory_dataset_perc": f"{100 * used / max(1, usage.resident):.2f}%",
        "total_system_memory": context.facts.memory,
        "total_system_memory_human": human(context.facts.memory),
        "used_memory_lua": 0,
        "used_memory_lua_human": "0B",
        "used_memory_scripts": 0,
        "used_memory_scripts_human": "0B",
        "number_of_cached_scripts": 0,
        "maxmemory": held.max_bytes,
        "maxmemory_human": human(held.max_bytes),
        "maxmemory_policy": POLICY,
        "mem_fragmentation_ratio": f"{usage.resident / max(1, used):.2f}",
        "mem_fragmentation_bytes": max(0, usage.resident - used),
        "mem_not_counted_for_evict": dirty.memory_bytes,
        "mem_replication_backlog": 0,
        "mem_clients_slaves": 0,
        "mem_clients_normal": sum(each.unread + each.unsent for each in context.clients.by_id.values()),
        "mem_aof_buffer": 0,
        "mem_allocator": "python",
        "active_defrag_running": 0,
        "lazyfree_pending_objects": 0,
    }


def persistence(context: Context) -> Fields:
    """Return the state of the journal as that of an append-only file; section Milena has it in its own terms."""
    values = context.status.values()
    return {
        "loading": 0,
        "async_loading": 0,
        "rdb_changes_since_last_save": int(values["dirty_entries"]),
        "rdb_bgsave_in_progress": 0,
        "rdb_last_save_time": int(values["writeback_last_success_timestamp"]),
        "rdb_last_bgsave_status": "ok",
        "rdb_last_bgsave_time_sec": -1,
        "rdb_current_bgsave_time_sec": -1,
        "aof_enabled": 1,
        "aof_rewrite_in_progress": 0,
        "aof_rewrite_scheduled": 0,
        "aof_last_rewrite_time_sec": -1,
        "aof_current_rewrite_time_sec": -1,
        "aof_last_bgrewrite_status": "ok",
        "aof_last_write_status": "err" if values["journal_full"] else "ok",
    }


def stats(context: Context) -> Fields:
    rates = context.rates
    now = rates.since_reset(totals(context))
    errors = sum(context.stats.errors.values())
    return {
        "total_connections_received": now["connections"],
        "total_commands_processed": now["commands"],
        "instantaneous_ops_per_sec": round(rates.per_second("commands")),
        "total_net_input_bytes": now["received"],
        "total_net_output_bytes": now["sent"],
        "total_net_repl_input_bytes": 0,
        "total_net_repl_output_bytes": 0,
        "instantaneous_input_kbps": f"{rates.per_second('received') / 1024:.2f}",
        "instantaneous_output_kbps": f"{rates.per_second('sent') / 1024:.2f}",
        "rejected_connections": now["refused"],
        "sync_full": 0,
        "sync_partial_ok": 0,
        "sync_partial_err": 0,
        "expired_keys": now["expired"],
        "expired_stale_perc": "0.00",
        "evicted_keys": now["evictions"],
        "evicted_clients": 0,
        "keyspace_hits": now["hits"],
        "keyspace_misses": now["misses"],
        "pubsub_channels": context.channels.channels,
        "pubsub_patterns": context.channels.patterns,
        "latest_fork_usec": 0,
        "total_forks": 0,
        "migrate_cached_sockets": 0,
        "tracking_total_keys": context.tracking.keys,
        "tracking_total_items": context.tracking.keys,
        "tracking_total_prefixes": context.tracking.prefixes,
        "unexpected_error_replies": 0,
        "total_error_replies": errors,
    }


def replication(context: Context) -> Fields:
    return {
        "role": "master",
        "connected_slaves": 0,
        "master_failover_state": "no-failover",
        "master_replid": server(context)["run_id"],
        "master_replid2": "0" * 40,
        "master_repl_offset": 0,
        "second_repl_offset": -1,
        "repl_backlog_active": 0,
        "repl_backlog_size": 0,
        "repl_backlog_first_byte_offset": 0,
        "repl_backlog_histlen": 0,
    }


def cpu(context: Context) -> Fields:
    usage = context.facts.usage()
    return {
        "used_cpu_sys": f"{usage.system:.6f}",
        "used_cpu_user": f"{usage.user:.6f}",
        "used_cpu_sys_children": "0.000000",
        "used_cpu_user_children": "0.000000",
    }


def modules(context: Context) -> Fields:
    return {}


def commandstats(context: Context) -> Fields:
    return {
        f"cmdstat_{name}": (
            f"calls={counts.calls},usec={counts.seconds * 1e6:.0f},"
            f"usec_per_call={counts.seconds * 1e6 / max(1, counts.calls):.2f},"
            f"rejected_calls={counts.rejected},failed_calls={counts.failed}"
        )
        for name, counts in sorted(context.stats.items())
        if name and (counts.calls or counts.rejected)
    }


def errorstats(context: Context) -> Fields:
    return {f"errorstat_{word}": f"count={number}" for word, number in sorted(context.stats.errors.items())}


def cluster(context: Context) -> Fields:
    return {"cluster_enabled": 1}


def keyspace(context: Context) -> Fields:
    held = len(context.node.memory) + len(context.node.dirty)
    return {"db0": f"keys={held},expires=0,avg_ttl=0"} if held else {}


def milena(context: Context) -> Fields:
    """Return the values of `milena stats`, and the node's place in the ring."""
    reads = context.node.reads
    return {
        "ready": int(not context.status.not_ready()),
        "joined": int(context.status.joined),
        "ring_epoch": context.ownership.epoch,
        "ring_slots": context.ownership.slots,
        "deferred_answers": context.clients.deferred,
        "rate_limited": context.requests.limiter.rejected,
        "invalidations": context.tracking.invalidations,
        **{f"reads_{outcome}": reads.outcomes[outcome] for outcome in (*HITS, *MISSES)},
        **{name: _plain(value) for name, value in context.status.values().items()},
    }


def _plain(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else f"{value:.3f}"


# In the order in which they are shown; sections that only `all` shows are not in DEFAULT.
SECTIONS: Mapping[str, Callable[[Context], Fields]] = {
    "Server": server,
    "Clients": clients,
    "Memory": memory,
    "Persistence": persistence,
    "Stats": stats,
    "Replication": replication,
    "CPU": cpu,
    "Modules": modules,
    "Commandstats": commandstats,
    "Errorstats": errorstats,
    "Cluster": cluster,
    "Keyspace": keyspace,
    "Milena": milena,
}
DEFAULT = frozenset(SECTIONS) - {"Commandstats"}
