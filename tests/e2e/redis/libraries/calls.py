"""Shell. What programs do with libraries that keep things in Redis: prints their results at each server, as JSON.

    python -m tests.e2e.redis.libraries.calls LIBRARY redis://ADDRESS …

Everyday calls, and then a counter and a lock that PROCESSES processes use. The results of all servers are to be the
same. Names have a hash tag: the keys of a transaction are of one slot.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
from collections.abc import Awaitable, Callable
from typing import Any

PROCESSES = 4
EACH = 20
LOCKED = 4
TAG = "{0}"

Result = dict[str, Any]
Step = Callable[[], Any]


def together(work: Callable[[], None]) -> list[int | None]:
    """Run `work` in all processes, and return their exit codes."""
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=work) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def raised(call: Step) -> str:
    try:
        return repr(call())
    except Exception as error:
        return type(error).__name__


def _django(url: str, backend: str, options: dict[str, Any]) -> Result:
    from django.conf import settings
    from django.core.cache import caches

    if not settings.configured:
        settings.configure(CACHES={"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}})
    alias = f"{backend}{url}"
    settings.CACHES[alias] = {
        "BACKEND": backend,
        "LOCATION": url,
        "KEY_PREFIX": f"{TAG}{backend}",
        "OPTIONS": options,
    }
    caches.settings = settings.CACHES
    cache = caches[alias]
    results: Result = {
        "set": cache.set("a", {"x": [1, None]}, 100),
        "get": cache.get("a"),
        "default": cache.get("none", "default"),
        "add": [cache.add("a", 1), cache.add("b", 2, 100), cache.get("b")],
        "set_many": cache.set_many({"c": 1, "d": "two"}, 100),
        "get_many": sorted(cache.get_many(["a", "c", "d", "none"]).items(), key=str),
        "incr": [cache.set("n", 5), cache.incr("n"), cache.incr("n", 10), cache.decr("n", 2)],
        "no incr": raised(lambda: cache.incr("none")),
        "touch": [cache.touch("a", 50), cache.touch("none", 50)],
        "has_key": [cache.has_key("a"), "none" in cache],
        "get_or_set": [cache.get_or_set("e", lambda: 7, 100), cache.get_or_set("e", lambda: 8, 100)],
        "delete": [cache.delete("a"), cache.delete("a")],
        "version": [cache.set("v", 1, version=2), cache.get("v"), cache.get("v", version=2)],
        "forever": [cache.set("f", 1, None), cache.get("f"), cache.set("f", 1, 0), cache.get("f")],
        "delete_many": [cache.delete_many(["b", "c", "d"]), cache.get("c")],
    }

    def work() -> None:
        mine = caches.create_connection(alias)
        for _ in range(EACH):
            mine.incr("counter")
        if hasattr(mine, "lock"):
            for _ in range(LOCKED):
                with mine.lock("lock", timeout=60, sleep=0.002):
                    mine.set("guarded", mine.get("guarded") + 1, None)

    cache.set("counter", 0, None)
    cache.set("guarded", 0, None)
    results["processes"] = [together(work), cache.get("counter"), cache.get("guarded")]
    if hasattr(cache, "delete_pattern"):
        results["ttl"] = [50 <= cache.ttl("e") <= 100, cache.ttl("counter"), cache.ttl("none")]
        results["keys"] = sorted(cache.keys("*"))
        results["delete_pattern"] = [cache.delete_pattern("coun*"), cache.get("counter")]
        results["persist"] = [cache.persist("e"), cache.ttl("e"), cache.expire("e", 90), cache.ttl("e") > 80]
    results["clear"] = [cache.clear() is not False, cache.get("e")]
    return results


def django(url: str) -> Result:
    return _django(url, "django.core.cache.backends.redis.RedisCache", {})


def django_redis(url: str) -> Result:
    return _django(url, "django_redis.cache.RedisCache", {})


def flask_caching(url: str) -> Result:
    from flask import Flask
    from flask_caching import Cache

    app = Flask("app")
    config = {"CACHE_TYPE": "RedisCache", "CACHE_REDIS_URL": url, "CACHE_KEY_PREFIX": f"{TAG}flask"}
    cache = Cache(app, config=config)
    calls: list[int] = []

    @cache.memoize(100)
    def squared(number: int) -> int:
        calls.append(number)
        return number * number

    with app.app_context():
        results: Result = {
            "set": [cache.set("a", {"x": 1}, timeout=100), cache.get("a"), cache.get("none")],
            "add": [cache.add("a", 2, timeout=100), cache.add("b", 2, timeout=100), cache.get("b")],
            "set_many": [cache.set_many({"c": 1, "d": 2}, timeout=100), cache.get_many("a", "c", "none")],
            "has": [cache.has("a"), cache.has("none")],
            "memoize": [squared(3), squared(3), calls.copy(), cache.delete_memoized(squared), squared(3), calls],
            "delete": [cache.delete("a"), cache.get("a"), cache.delete_many("c", "d"), cache.get("d")],
        }

        def work() -> None:
            mine = Cache(app, config=config)
            for _ in range(EACH):
                mine.cache.inc("counter")

        results["processes"] = [together(work), cache.get("counter")]
        results["dec"] = [cache.cache.dec("counter"), cache.clear(), cache.get("counter"), cache.get("b")]
    return results


def aiocache(url: str) -> Result:
    return asyncio.run(_aiocache(url))


async def _aiocache(url: str) -> Result:
    from aiocache import RedisCache
    from aiocache.lock import RedLock

    host, port = url.removeprefix("redis://").split(":")

    def made() -> Any:
        return RedisCache(endpoint=host, port=int(port), namespace=f"{TAG}aiocache:")

    async def counted() -> None:
        mine = made()
        for _ in range(EACH):
            await mine.increment("counter")

    cache = made()
    try:
        results: Result = {
            "set": [await cache.set("a", "1", ttl=100), await cache.get("a"), await cache.get("none")],
            "fraction": [await cache.set("p", "1", ttl=99.5), await cache.get("p")],
            "add": [await cache.add("b", "2", ttl=100), await _raised(cache.add("b", "3"))],
            "multi": [
                await cache.multi_set([("c", "1"), ("d", "2")], ttl=100),
                await cache.multi_get(["c", "d", "x"]),
            ],
            "exists": [await cache.exists("a"), await cache.exists("none")],
            "increment": [await cache.increment("n"), await cache.increment("n", 5)],
            "expire": [await cache.expire("a", 50), await cache.expire("none", 50), await cache.expire("a", 0)],
            "delete": [await cache.delete("a"), await cache.delete("a")],
        }
        await asyncio.sleep(0)
        codes = await asyncio.to_thread(together, lambda: asyncio.run(counted()))
        results["processes"] = [codes, await cache.get("counter")]
        # Its lock does not wait for one of another process: it goes on after its lease.
        async with RedLock(cache, "lock", lease=60):
            results["locked"] = await cache.exists("lock-lock")
        results["unlocked"] = await cache.exists("lock-lock")
        results["clear"] = [await cache.clear(namespace=f"{TAG}aiocache:"), await cache.get("counter")]
        return results
    finally:
        await cache.close()


async def _raised(call: Awaitable[Any]) -> str:
    try:
        return repr(await call)
    except Exception as error:
        return type(error).__name__


def cashews(url: str) -> Result:
    return asyncio.run(_cashews(url))


async def _cashews(url: str) -> Result:
    from cashews import Cache

    def made() -> Any:
        cache = Cache()
        cache.setup(url, client_side=False)
        return cache

    name = f"{TAG}cashews:"

    async def counted() -> None:
        mine = made()
        for _ in range(EACH):
            await mine.incr(f"{name}counter")
        for _ in range(LOCKED):
            async with mine.lock(f"{name}lock", expire=60):
                await mine.set(f"{name}guarded", (await mine.get(f"{name}guarded") or 0) + 1)

    cache = made()
    calls: list[int] = []

    @cache(ttl="100s", key=f"squared:{TAG[1]}" + ":{number}")
    async def squared(number: int) -> int:
        calls.append(number)
        return number * number

    try:
        a, b, c = f"{name}a", f"{name}b", f"{name}c"
        results: Result = {
            "set": [await cache.set(a, {"x": 1}, expire=100), await cache.get(a), await cache.get(f"{name}none")],
            "exist": [await cache.set(a, 2, exist=False), await cache.set(b, 2, exist=True), await cache.exists(a)],
            "many": [await cache.set_many({b: 1, c: 2}, expire=100), await cache.get_many(a, b, c, f"{name}x")],
            "incr": [await cache.incr(f"{name}n"), await cache.incr(f"{name}n", 5, expire=100)],
            "expire": [await cache.expire(a, 50), 40 < await cache.get_expire(a) <= 50],
            "decorator": [await squared(3), await squared(3), calls],
            "bits": [
                await cache.incr_bits(f"{name}bits", 1, 2, size=2),
                await cache.get_bits(f"{name}bits", 1, size=2),
            ],
            "lock": [
                await cache.set_lock(f"{name}l", "me", 100),
                await cache.is_locked(f"{name}l"),
                await cache.unlock(f"{name}l", "other"),
                await cache.unlock(f"{name}l", "me"),
                await cache.is_locked(f"{name}l"),
            ],
            "delete": [await cache.delete(a), await cache.exists(a)],
        }
        codes = await asyncio.to_thread(together, lambda: asyncio.run(counted()))
        results["processes"] = [codes, await cache.get(f"{name}counter"), await cache.get(f"{name}guarded")]
        results["delete_match"] = [await cache.delete_match(f"{name}*"), await cache.get(b)]
        return results
    finally:
        await cache.close()


def dogpile(url: str) -> Result:
    from dogpile.cache import make_region
    from dogpile.cache.api import NO_VALUE

    arguments = {"url": url, "redis_expiration_time": 100, "distributed_lock": True, "thread_local_lock": False}

    def made() -> Any:
        region = make_region(key_mangler=lambda key: f"{TAG}dogpile:{key}")
        return region.configure("dogpile.cache.redis", arguments={**arguments, "lock_sleep": 0.002})

    region = made()
    calls: list[int] = []

    def creator() -> int:
        calls.append(1)
        return 7

    results: Result = {
        "set": [region.set("a", {"x": 1}), region.get("a"), region.get("none") is NO_VALUE],
        "get_or_create": [region.get_or_create("b", creator), region.get_or_create("b", creator), len(calls)],
        "multi": [region.set_multi({"c": 1, "d": 2}), region.get_multi(["c", "d"])],
        "delete": [region.delete("a"), region.get("a") is NO_VALUE, region.delete_multi(["c", "d"])],
    }

    def work() -> None:
        mine = made()
        for _ in range(LOCKED):
            mutex = mine.backend.get_mutex("guard")
            mutex.acquire()
            mine.set("guarded", mine.get("guarded") + 1)
            mutex.release()

    region.set("guarded", 0)
    results["processes"] = [together(work), region.get("guarded")]
    return results


def celery(url: str) -> Result:
    from celery import Celery, states
    from celery.contrib.testing.worker import start_worker

    app = Celery("app", broker="memory://", backend=f"{url}/0")
    app.conf.update(worker_hijack_root_logger=False, result_expires=1000)

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="fail")
    def fail() -> None:
        raise ValueError("no")

    backend = app.backend
    backend.store_result("stored", {"x": 1}, states.SUCCESS)
    results: Result = {
        "stored": [backend.get_state("stored"), backend.get_result("stored"), backend.get_state("none")],
        "forget": [backend.forget("stored"), backend.get_state("stored")],
    }
    with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=60):
        first, second, failed = add.delay(2, 3), add.delay(4, 5), fail.delay()
        results["get"] = [first.get(timeout=60), second.get(timeout=60), first.status]
        results["fail"] = [raised(lambda: failed.get(timeout=60)), failed.status]
    return results


def flask_session(url: str) -> Result:
    from flask import Flask, session
    from flask_session import Session
    from redis import Redis

    app = Flask("app")
    store = Redis.from_url(url)
    app.config.update(
        SESSION_TYPE="redis",
        SESSION_REDIS=store,
        SESSION_KEY_PREFIX=f"{TAG}session:",
        PERMANENT_SESSION_LIFETIME=100,
    )
    Session(app)

    @app.route("/visits")
    def visits() -> dict[str, Any]:
        session["visits"] = session.get("visits", 0) + 1
        session["seen"] = [*session.get("seen", []), {"number": session["visits"]}]
        return dict(session)

    @app.route("/clear")
    def clear() -> str:
        session.clear()
        return ""

    one, other = app.test_client(), app.test_client()
    results: Result = {
        "visits": [one.get("/visits").json for _ in range(3)],
        "other": other.get("/visits").json,
        "stored": len(list(store.scan_iter(f"{TAG}session:*"))),
        "expiry": all(90 < store.ttl(key) <= 100 for key in store.scan_iter(f"{TAG}session:*")),
        "clear": one.get("/clear").status_code,
        "left": len(list(store.scan_iter(f"{TAG}session:*"))),
        "after": [one.get("/visits").json, other.get("/visits").json],
    }

    def work() -> None:
        mine = app.test_client()
        mine_visits = [mine.get("/visits").json["visits"] for _ in range(EACH)]
        assert mine_visits == list(range(1, EACH + 1)), mine_visits

    results["processes"] = [together(work), len(list(store.scan_iter(f"{TAG}session:*")))]
    return results


def glide(url: str) -> Result:
    return asyncio.run(_glide(url))


async def _glide(url: str) -> Result:
    from glide import (
        Batch,
        ConditionalChange,
        ExpirySet,
        ExpiryType,
        GlideClient,
        GlideClientConfiguration,
        NodeAddress,
        RequestError,
        Script,
    )

    host, port = url.removeprefix("redis://").split(":")
    subscriptions = GlideClientConfiguration.PubSubSubscriptions(
        channels_and_patterns={
            GlideClientConfiguration.PubSubChannelModes.Exact: {f"{TAG}news"},
            GlideClientConfiguration.PubSubChannelModes.Pattern: {f"{TAG}s*"},
        },
        callback=None,
        context=None,
    )

    async def made(listens: Any = None) -> Any:
        addresses = [NodeAddress(host, int(port))]
        # Its default timeout is 250 ms.
        return await GlideClient.create(
            GlideClientConfiguration(addresses, request_timeout=60_000, pubsub_subscriptions=listens)
        )

    name = f"{TAG}glide:"
    a, b, c = f"{name}a", f"{name}b", f"{name}c"
    client, listener = await made(), await made(subscriptions)
    script = Script("return redis.call('incrby', KEYS[1], ARGV[1])")
    try:
        results: Result = {
            "set": [await client.set(a, "1"), await client.get(a), await client.get(f"{name}none")],
            "conditions": [
                await client.set(a, "2", conditional_set=ConditionalChange.ONLY_IF_DOES_NOT_EXIST),
                await client.set(b, "2", conditional_set=ConditionalChange.ONLY_IF_EXISTS),
                await client.set(a, "3", return_old_value=True, expiry=ExpirySet(ExpiryType.SEC, 100)),
            ],
            "ttl": [90 < await client.ttl(a) <= 100, await client.persist(a), await client.ttl(a)],
            "many": [await client.mset({b: "1", c: "2"}), await client.mget([a, b, c, f"{name}none"])],
            "numbers": [await client.incr(b), await client.incrby(b, 5), await client.incrbyfloat(c, 0.5)],
            "parts": [await client.append(a, "xyz"), await client.getrange(a, 1, -1), await client.strlen(a)],
            "script": [await client.invoke_script(script, keys=[b], args=["10"])],
            "exists": [await client.exists([a, b, f"{name}none"]), await client.type(a)],
        }
        batch = Batch(is_atomic=True).set(a, "4").incr(b).get(a).expire(a, 100)
        results["transaction"] = await client.exec(batch, raise_on_error=True)
        results["watch"] = [await client.watch([a]), await client.set(a, "5")]
        results["watched"] = await client.exec(Batch(is_atomic=True).set(a, "6"), raise_on_error=True)
        pipeline = Batch(is_atomic=False).set(a, "7").incr(a).get(f"{name}none")
        results["pipeline"] = await client.exec(pipeline, raise_on_error=True)
        try:
            await client.exec(Batch(is_atomic=True).set(a, "x").incr(a), raise_on_error=True)
        except RequestError as error:
            results["error"] = "not an integer" in str(error)
        await client.publish("hello", f"{TAG}news")
        await client.publish("match", f"{TAG}sport")
        messages = [await asyncio.wait_for(listener.get_pubsub_message(), 60) for _ in range(2)]
        results["messages"] = [(each.message, each.channel.removeprefix(TAG.encode())) for each in messages]
        results["delete"] = [await client.delete([a, b, c]), await client.get(a)]
        return results
    finally:
        await client.close()
        await listener.close()


LIBRARIES: dict[str, Callable[[str], Result]] = {
    each.__name__: each
    for each in (django, django_redis, flask_caching, flask_session, aiocache, cashews, dogpile, celery, glide)
}


def main(name: str, urls: list[str]) -> None:
    global TAG
    for number, url in enumerate(urls):
        # A node and a router may be two ways to one cluster.
        TAG = f"{{{number}}}"
        print(json.dumps(LIBRARIES[name](url), default=repr, sort_keys=True), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
