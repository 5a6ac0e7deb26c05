// ioredis. Prints what each call returns, a JSON line a call.
// node ioredis.js HOST:PORT one|any|cluster PROTOCOL PREFIX
const { strict: assert } = require("assert");
const Redis = require("ioredis");
const { refusal, say } = require("../../../support/npm/output.js");
const { together } = require("./processes.js");

const [address, kind, protocol, prefix] = process.argv.slice(2);
const [host, port] = address.split(":");
const options = { protocol: Number(protocol), maxRetriesPerRequest: 5 };
const clients = [];

function made(more = {}) {
  const all = { ...options, ...more };
  const { enableAutoPipelining, keyPrefix } = more;
  const client = kind === "cluster"
    ? new Redis.Cluster([{ host, port: Number(port) }], { redisOptions: all, enableAutoPipelining, keyPrefix })
    : new Redis(Number(port), host, all);
  client.on("error", (error) => console.error(error));
  clients.push(client);
  return client;
}

const [a, b, c, n, none] = ["a", "b", "c", "n", "none"].map((name) => prefix + name);
const UNLOCK = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end";

async function values(client) {
  say("set", await client.set(a, "1"), await client.get(a), await client.get(none));
  say("conditions", await client.set(a, "2", "NX"), await client.set(b, "2", "XX"),
    await client.set(a, "3", "EX", 100, "GET"), await client.set(a, "4", "KEEPTTL"), (await client.ttl(a)) > 90);
  const bytes = Buffer.from([0, 255, 13, 10, 36]);
  say("bytes", await client.set(b, bytes), (await client.getBuffer(b)).equals(bytes), await client.strlen(b));
  say("old forms", await client.setex(b, 100, "1"), await client.psetex(b, 100000, "2"), await client.setnx(b, "3"),
    await client.getset(b, "4"), await client.getdel(b), await client.setnx(b, "5"), await client.getex(b, "EX", 9));
  say("many", await client.mset({ [a]: "1", [b]: "ä" }), await client.mget(a, b, none), await client.msetnx(a, 2, c, 3));
  say("numbers", await client.incr(n), await client.incrby(n, 5), await client.decr(n), await client.incrbyfloat(n, 0.5));
  say("not a number", await client.incr(b).catch(refusal));
  say("parts", await client.append(a, "xyz"), await client.getrange(a, 1, -1), await client.setrange(a, 6, "!"),
    (await client.getBuffer(a)).toString("hex"));
  say("bits", await client.setbit(c, 7, 1), await client.getbit(c, 7), await client.bitcount(c));
  say("expiry", await client.expire(a, 100), await client.pexpire(a, 90000, "LT"), await client.pttl(a) > 80000,
    await client.persist(a), await client.ttl(a), await client.ttl(none), await client.expireat(a, 4102444800),
    await client.expiretime(a), await client.expire(none, 1));
  say("keys", await client.exists(a, b, none), await client.type(a), await client.touch(a, none),
    await client.rename(a, c), await client.copy(c, a), await client.unlink(a, none), await client.del(b, c));
  say("words of its own", await client.call("SET", a, "1"), await client.call("GET", a), await client.call("STRLEN", a));
  say("wrong", await client.call("GET", a, b).catch(refusal), await client.call("NO-SUCH-COMMAND", a).catch(refusal));
  await client.set(b, "x".repeat(300000));
  say("large", (await client.get(b)).length, await client.getrange(b, 299999, -1));
}

async function batches(client) {
  const named = (replies) => replies.map(([error, reply]) => (error ? refusal(error) : reply));
  const pipeline = client.pipeline().set(a, "x").incr(a).get(a).mget(a, none).expire(a, 100).ttl(none);
  say("pipeline", named(await pipeline.exec()));
  say("transaction", named(await client.multi().set(a, "1").incr(a).get(a).mget(a, none).exec()));
  say("failed in it", named(await client.multi().set(a, "x").incr(a).get(a).exec()));
  say("refused in it", await client.multi().set(a, "y").call("NO-SUCH-COMMAND").exec().catch(refusal), await client.get(a));
  const many = client.pipeline();
  for (let i = 0; i < 100; i++) many.set(n, i).get(n);
  const replies = named(await many.exec());
  say("long pipeline", replies.length, replies.every((reply, i) => reply === (i % 2 ? `${(i - 1) / 2}` : "OK")));
  const auto = made({ enableAutoPipelining: true });
  const keys = [...Array(50).keys()].map((i) => `${prefix}auto${i}`);
  await auto.set(keys[0], "ready");
  say("by itself", (await Promise.all(keys.map((key, i) => auto.set(key, i)))).length,
    await Promise.all(keys.map((key) => auto.get(key))));
  const prefixed = made({ keyPrefix: prefix });
  say("prefixed", await prefixed.set("p", "1"), await client.get(`${prefix}p`), await prefixed.mget("p", "none"));
}

async function watched() {
  const [one, other] = [made(), made()];
  if (kind === "cluster") return; // Its connections are shared: WATCH is for plain clients.
  await one.set(a, "1");
  await one.watch(a);
  await other.set(a, "2");
  say("watched", await one.multi().set(a, "3").exec(), await one.get(a));
  await one.watch(a);
  say("unwatched", (await one.multi().set(a, "3").exec()).length, await one.get(a));
  say("step by step", await one.multi({ pipeline: false }), await one.incr(a), await one.exec(), await one.get(a));
}

async function scripts(client) {
  say("eval", await client.eval("return {KEYS[1], ARGV[1], 1, false}", 1, "{0}k", "v"));
  client.defineCommand("add", { numberOfKeys: 1, lua: "return redis.call('incrby', KEYS[1], ARGV[1])" });
  await client.del(n);
  say("command", await client.add(n, 5), await client.add(n, 5), await client.get(n));
  say("in a batch", await client.pipeline().add(n, 1).add(n, 1).exec());
  await client.set(a, "x");
  say("wrong script", await client.eval("return redis.call('incr', KEYS[1])", 1, a).catch(refusal));
  say("unknown", await client.evalsha("0".repeat(40), 1, a).catch(refusal));
}

async function messages(client) {
  const heard = [];
  const listener = made();
  let enough;
  const all = new Promise((resolve) => { enough = resolve; });
  const hear = (...message) => heard.push(message) === 4 && enough();
  listener.on("message", hear);
  listener.on("pmessage", hear);
  say("subscribed", await listener.subscribe(`${prefix}news`, `${prefix}more`), await listener.psubscribe(`${prefix}s*`));
  await client.publish(`${prefix}news`, "hello");
  await client.publish(`${prefix}sport`, "ä");
  await client.publish(`${prefix}nobody`, "?");
  await client.publish(`${prefix}more`, "1");
  await client.publish(`${prefix}news`, "end");
  await all;
  say("messages", heard.map((each) => JSON.stringify(each)).sort());
  say("unsubscribed", await listener.unsubscribe(`${prefix}news`), await listener.punsubscribe(`${prefix}s*`));
}

async function found(client) {
  const names = new Set();
  const nodes = kind === "cluster" ? client.nodes("master") : [client];
  for (const node of nodes)
    for await (const keys of node.scanStream({ match: `${prefix}auto*`, count: 10 })) keys.forEach((key) => names.add(key));
  say("scan", names.size);
  if (kind === "cluster") return; // It sends the keys of one command to one node.
  const spread = [...Array(20).keys()].map((i) => `spread:${prefix.replace(/[{}]/g, "")}${i}`);
  say("anywhere", await client.mset(spread.flatMap((key, i) => [key, i])), await client.mget(...spread, none),
    await client.exists(spread), await client.del(spread), await client.exists(spread));
}

async function work() {
  const client = made();
  for (let i = 0; i < 20; i++) await client.incr(`${prefix}counter`);
  for (let i = 0; i < 4; i++) {
    const token = `${process.pid}`;
    while (!(await client.set(`${prefix}lock`, token, "PX", 60000, "NX"))) ;
    await client.set(`${prefix}guarded`, Number(await client.get(`${prefix}guarded`)) + 1);
    assert.equal(await client.eval(UNLOCK, 1, `${prefix}lock`, token), 1);
  }
}

async function main() {
  if (process.send) return work();
  const client = made();
  for (const step of [values, batches, watched, scripts, messages, found]) await step(client);
  if (process.env.PROCESSES)
    say("processes", await together(), await client.get(`${prefix}counter`), await client.get(`${prefix}guarded`));
}

main().finally(() => clients.forEach((each) => each.disconnect()));
