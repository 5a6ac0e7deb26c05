"""Scripts at any node of three, and through the router: redis-py's locks, and counters of many clients."""

from __future__ import annotations

import threading

import pytest
from redis.commands.core import DataPersistOptions
from redis.exceptions import LockNotOwnedError, NoScriptError, ResponseError

from tests.e2e.redis.plain_clients import PROTOCOLS, SECONDS, WAYS, client

pytest.importorskip("lupa.lua54")
pytestmark = pytest.mark.e2e

ADD = "local n = tonumber(redis.call('get', KEYS[1]) or '0') redis.call('set', KEYS[1], n + ARGV[1]) return n"


@WAYS
@PROTOCOLS
def test_scripts_on_keys_of_any_node(ways: dict[str, str], way: str, protocol: int) -> None:
    with client(ways[way], protocol) as one:
        for number in range(12):
            key = f"script/{way}/{protocol}/{number}"
            assert one.eval(ADD, 1, key, 5) == 0
            script = one.register_script(ADD)
            assert script(keys=[key], args=[2]) == 5
            assert one.get(key) == b"7"
        assert one.script_exists(one.script_load(ADD), "0" * 40) == [True, False]
        assert one.eval("return {1, false, 'x', {ARGV[1]}}", 0, "y") == [1, None, b"x", [b"y"]]
        assert one.script_flush()
        with pytest.raises(NoScriptError):
            one.evalsha("0" * 40, 1, "a")
        for line, said in (
            (("EVAL", "return 1", "2", "a"), "Number of keys can't be greater than number of args"),
            (("EVAL", "return 1", "-1"), "Number of keys can't be negative"),
            (("EVAL", "return 1", "x"), "not an integer"),
            (("EVAL", "return redis.call('get', 'undeclared')", "1", "a"), "does not declare"),
            (("EVAL", "return redis.call('get', KEYS[1])", "2", "a", "b"), "hash to the same slot"),
            (("EVAL", "while true do end", "1", "a"), "was stopped: it has more than 1000000 instructions"),
            (("EVAL", "no script", "1", "a"), "Error compiling script"),
            (("SCRIPT", "NOSUCH"), "unknown subcommand"),
        ):
            with pytest.raises(ResponseError, match=said):
                one.execute_command(*line)


@WAYS
@PROTOCOLS
def test_scripts_in_transactions_on_keys_of_any_node(ways: dict[str, str], way: str, protocol: int) -> None:
    with client(ways[way], protocol) as one:
        add = one.register_script(ADD)
        for number in range(12):
            tag = f"{{script/multi/{way}/{protocol}/{number}}}"
            with one.pipeline() as pipeline:
                pipeline.set(f"{tag}a", 1)
                add(keys=[f"{tag}a"], args=[5], client=pipeline)
                pipeline.eval("return {KEYS[1], redis.call('get', KEYS[1])}", 1, f"{tag}a").get(f"{tag}a").ping()
                assert pipeline.execute() == [True, 1, [f"{tag}a".encode(), b"6"], b"6", True]
            with one.pipeline() as pipeline, pytest.raises(ResponseError, match="was stopped"):
                pipeline.set(f"{tag}a", 1).eval("while true do end", 1, f"{tag}a").execute()
            assert one.get(f"{tag}a") == b"6"
        with one.pipeline() as pipeline:
            assert pipeline.eval("return ARGV[1]", 0, "x").execute() == [b"x"]


@WAYS
@PROTOCOLS
def test_msetex_on_keys_of_any_node(ways: dict[str, str], way: str, protocol: int) -> None:
    with client(ways[way], protocol) as one:
        prefix = f"msetex/{way}/{protocol}"
        keys = {f"{prefix}/{number}": f"{number}" for number in range(30)}
        assert one.msetex(keys, ex=100) == 1
        assert one.mget(list(keys)) == [value.encode() for value in keys.values()]
        assert all(90 < one.ttl(key) <= 100 for key in keys)
        assert one.msetex(keys) == 1
        assert one.ttl(f"{prefix}/7") == -1
        for number in range(6):
            tagged = {f"{{{prefix}/{number}}}a": "1", f"{{{prefix}/{number}}}b": "2"}
            assert one.msetex(tagged, DataPersistOptions.XX) == 0
            assert one.msetex(tagged, DataPersistOptions.NX, px=100_000) == 1
            assert one.msetex(tagged, DataPersistOptions.NX) == 0
            assert one.msetex(tagged, keepttl=True) == 1
            assert all(90 < one.ttl(key) <= 100 for key in tagged)
        for line, said in (
            (("MSETEX", "2", "a", "1"), "wrong number of key-value pairs"),
            (("MSETEX", "30", *(word for pair in keys.items() for word in pair), "NX"), "hash to the same slot"),
            (("MSETEX", "1", "a", "1", "EX", "0"), "invalid expire time in 'msetex' command"),
        ):
            with pytest.raises(ResponseError, match=said):
                one.execute_command(*line)


@WAYS
def test_locks_of_redis_py(ways: dict[str, str], way: str) -> None:
    with client(ways[way]) as one, client(ways["node"]) as other:
        for number in range(8):
            name = f"lock/{way}/{number}"
            lock = one.lock(name, timeout=100)
            with lock:
                assert not other.lock(name, timeout=100).acquire(blocking=False)
                assert lock.extend(100)
                assert 150 < one.ttl(name) <= 200
                assert lock.reacquire()
                assert one.ttl(name) <= 100
            assert one.exists(name) == 0
            assert lock.acquire(blocking=False)
            other.set(name, "another's")
            with pytest.raises(LockNotOwnedError):
                lock.release()
            assert other.get(name) == b"another's"


def test_of_increments_by_script_and_under_a_lock_none_is_lost(ways: dict[str, str]) -> None:
    failures: list[BaseException] = []

    def count(address: str) -> None:
        try:
            with client(address) as one:
                add = one.register_script(ADD)
                for _ in range(40):
                    add(keys=["by-script"], args=[1])
                for _ in range(8):
                    with one.lock("guard", timeout=SECONDS, sleep=0.005):
                        one.set("by-lock", int(one.get("by-lock") or 0) + 1)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=count, args=(address,)) for address in [*ways.values(), *ways.values()]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with client(ways["router"]) as one:
        assert one.mget("by-script", "by-lock") == [b"160", b"32"]
