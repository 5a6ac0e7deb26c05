// node-redis. Prints what each call returns, a JSON line a call.
// node node_redis.js HOST:PORT one|any|cluster PROTOCOL PREFIX
const { strict: assert } = require("assert");
const redis = require("redis");
const { refusal, say } = require("../../../support/npm/output.js");
const { together } = require("./processes.js");

const [address, kind, protocol, prefix] = process.argv.slice(2);
const url = `redis://${address}`;
const clients = [];
const scripts = {
  add: redis.defineScript({
    SCRIPT: "return redis.call('incrby', KEYS[1], ARGV[1])",
    NUMBER_OF_KEYS: 1,
    parseCommand(parser, key, number) {
      parser.pushKey(key);
      parser.push(`${number}`);
    },
    transformReply: (reply) => reply,
  }),
};

async function made(more = {}) {
  const options = { RESP: Number(protocol), scripts, ...more };
  const client = kind === "cluster"
    ? redis.createCluster({ rootNodes: [{ url }], ...options })
    : redis.createClient({ url, ...options });
  client.on("error", (error) => console.error(error));
  clients.push(client);
  await client.connect();
  return client;
}

const [a, b, c, n, none] = ["a", "b", "c", "n", "none"].map((name) => prefix + name);
const raw = (client, ...words) => (kind === "cluster" ? client.sendCommand(words[1], false, words) : client.sendCommand(words));

async function values(client) {
  say("set", await client.set(a, "1"), await client.get(a), await client.get(none));
  say("conditions", await client.set(a, "2", { condition: "NX" }), await client.set(b, "2", { condition: "XX" }),
    await client.set(a, "3", { expiration: { type: "EX", value: 100 }, GET: true }),
    await client.set(a, "4", { expiration: "KEEPTTL" }), (await client.ttl(a)) > 90);
  const bytes = Buffer.from([0, 255, 13, 10, 36]);
  const inBytes = client.withTypeMapping({ [redis.RESP_TYPES.BLOB_STRING]: Buffer });
  say("bytes", await client.set(b, bytes), (await inBytes.get(b)).equals(bytes), await client.strLen(b));
  say("old forms", await client.setEx(b, 100, "1"), await client.pSetEx(b, 100000, "2"), await client.setNX(b, "3"),
    await client.getSet(b, "4"), await client.getDel(b), await client.getEx(b, { type: "EX", value: 9 }));
  say("many", await client.mSet({ [a]: "1", [b]: "ä" }), await client.mGet([a, b, none]), await client.mSetNX({ [a]: "2", [c]: "3" }));
  say("numbers", await client.incr(n), await client.incrBy(n, 5), await client.decr(n), await client.incrByFloat(n, 0.5));
  say("not a number", await client.incr(b).catch(refusal));
  say("parts", await client.append(a, "xyz"), await client.getRange(a, 1, -1), await client.setRange(a, 6, "!"),
    (await inBytes.get(a)).toString("hex"));
  say("bits", await client.setBit(c, 7, 1), await client.getBit(c, 7), await client.bitCount(c));
  say("expiry", await client.expire(a, 100), await client.pExpire(a, 90000, "LT"), await client.pTTL(a) > 80000,
    await client.persist(a), await client.ttl(a), await client.ttl(none), await client.expireAt(a, 4102444800),
    await client.expireTime(a), await client.expire(none, 1));
  say("keys", await client.exists([a, b, none]), await client.type(a), await client.touch([a, none]),
    await client.rename(a, c), await client.copy(c, a), await client.unlink([a, none]), await client.del([b, c]));
  say("common", await client.mSet({ [a]: "ohmytext", [b]: "mynewtext" }), await client.lcs(a, b), await client.lcsLen(a, b),
    await client.lcsIdx(a, b));
  say("words of its own", await raw(client, "SET", a, "1"), await raw(client, "GET", a), await raw(client, "STRLEN", a));
  say("wrong", await raw(client, "GET", a, b).catch(refusal), await raw(client, "NO-SUCH-COMMAND", a).catch(refusal));
  await client.set(b, "x".repeat(300000));
  say("large", (await client.get(b)).length, await client.getRange(b, 299999, -1));
}

async function batches(client) {
  const named = (replies) => replies.map((reply) => (reply instanceof Error ? refusal(reply) : reply));
  const failed = (error) => named(error.replies ?? [error]);
  say("transaction", await client.multi().set(a, "1").incr(a).get(a).mGet([a, none]).expire(a, 100).exec());
  say("failed in it", await client.multi().set(a, "x").incr(a).get(a).exec().catch(failed));
  const wrong = kind === "cluster" ? [a, false, ["GET", a, b]] : [["GET", a, b]];
  say("refused in it", await client.multi().set(a, "y").addCommand(...wrong).exec().catch(refusal), await client.get(a));
  say("pipeline", await client.multi().set(a, "1").incr(a).get(none).execAsPipeline());
  say("failed in a pipeline", await client.multi().set(a, "x").incr(a).get(a).execAsPipeline().catch(failed));
  const replies = await Promise.all([...Array(100).keys()].flatMap((i) => [client.set(n, `${i}`), client.get(n)]));
  say("at once", replies.length, replies.every((reply, i) => reply === (i % 2 ? `${(i - 1) / 2}` : "OK")));
}

async function watched(client) {
  if (kind === "cluster") return; // Its connections are shared: WATCH is for plain clients and pools.
  const other = await made();
  await other.watch(a);
  await client.set(a, "2");
  say("watched", await other.multi().set(a, "3").exec().catch((error) => error.name), await client.get(a));
  await other.watch(a);
  say("unwatched", await other.multi().set(a, "3").exec(), await client.get(a));
  const pool = redis.createClientPool({ url, RESP: Number(protocol) });
  clients.push(pool);
  await pool.connect();
  say("pool", (await Promise.all([...Array(20)].map(() => pool.incr(a)))).sort((x, y) => x - y), await pool.get(a));
}

async function scripted(client) {
  say("eval", await client.eval("return {KEYS[1], ARGV[1], 1, false}", { keys: [a], arguments: ["v"] }));
  await client.del(n);
  say("script", await client.add(n, 5), await client.add(n, 5), await client.get(n));
  say("in a batch", await client.multi().add(n, 1).add(n, 1).exec());
  await client.set(a, "x");
  say("wrong script", await client.eval("return redis.call('incr', KEYS[1])", { keys: [a] }).catch(refusal));
  say("unknown", await client.evalSha("0".repeat(40), { keys: [a] }).catch(refusal));
}

async function messages(client) {
  const heard = [];
  const listener = await made();
  let enough;
  const all = new Promise((resolve) => { enough = resolve; });
  const hear = (message, channel) => heard.push([message, channel]) === 5 && enough();
  await listener.subscribe([`${prefix}news`, `${prefix}more`], hear);
  await listener.pSubscribe(`${prefix}s*`, hear);
  await listener.sSubscribe(`${prefix}shard`, hear);
  await client.publish(`${prefix}news`, "hello");
  await client.publish(`${prefix}sport`, "ä");
  await client.publish(`${prefix}nobody`, "?");
  await client.publish(`${prefix}more`, "1");
  await client.publish(`${prefix}news`, "end");
  await client.sPublish(`${prefix}shard`, "s");
  await all;
  say("messages", heard.map((each) => JSON.stringify(each)).sort());
  await listener.unsubscribe();
  await listener.pUnsubscribe();
}

async function found(client) {
  const spread = [...Array(20).keys()].map((i) => `spread:${prefix.replace(/[{}]/g, "")}${i}`);
  say("anywhere", await client.mSet(spread.flatMap((key, i) => [[key, `${i}`]])), await client.mGet([...spread, none]));
  const names = new Set();
  const nodes = kind === "cluster" ? await Promise.all(client.masters.map((each) => client.nodeClient(each))) : [client];
  for (const node of nodes)
    for await (const keys of node.scanIterator({ MATCH: `${spread[0].slice(0, -1)}*`, COUNT: 10 })) keys.forEach((key) => names.add(key));
  say("scan", names.size);
  say("deleted", (await Promise.all(spread.map((key) => client.del(key)))).length, await client.exists(spread[0]));
}

async function cached(client) {
  // CLIENT TRACKING is about one node: where others are asked for keys it is rejected.
  if (protocol === "2" || kind === "any") return;
  const near = await made({ clientSideCache: { ttl: 0, maxEntries: 100 } });
  const until = async (key, value) => { while ((await near.get(key)) !== value) await new Promise(setImmediate); };
  const hits = () => near.clientSideCache.stats().hitCount;
  await client.set(a, "1");
  const read = [await near.get(a), await near.get(a), await near.get(a), await near.mGet([a, none])];
  say("near", read, hits());
  for (const change of [
    () => client.set(a, "2"), () => client.incr(a), () => client.append(a, "0"), () => client.setRange(a, 0, "7"),
    () => client.multi().set(a, "5").exec(), () => client.add(a, 2), () => client.set(a, "9", { PX: 60000 }),
  ]) {
    const before = await near.get(a);
    await change();
    const now = await client.get(a);
    assert.notEqual(before, now);
    await until(a, now);
  }
  await client.set(b, "1");
  await near.get(b);
  await client.del(b);
  await until(b, null);
  await client.set(b, "1");
  await until(b, "1");
  await client.pExpire(b, 1);
  await until(b, null);
  say("invalidated", await near.get(a), await near.get(b));
}

async function work() {
  const client = await made();
  for (let i = 0; i < 20; i++) await client.incr(`${prefix}counter`);
  const UNLOCK = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end";
  const lock = { condition: "NX", expiration: { type: "PX", value: 60000 } };
  for (let i = 0; i < 4; i++) {
    const token = `${process.pid}`;
    while (!(await client.set(`${prefix}lock`, token, lock))) ;
    await client.set(`${prefix}guarded`, `${Number(await client.get(`${prefix}guarded`)) + 1}`);
    assert.equal(await client.eval(UNLOCK, { keys: [`${prefix}lock`], arguments: [token] }), 1);
  }
}

async function main() {
  if (process.send) return work();
  const client = await made();
  for (const step of [values, batches, watched, scripted, messages, found, cached]) await step(client);
  if (process.env.PROCESSES)
    say("processes", await together(), await client.get(`${prefix}counter`), await client.get(`${prefix}guarded`));
}

main().finally(() => clients.forEach((each) => each.destroy()));
