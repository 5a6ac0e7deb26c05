// connect-redis, the session store of Express, with node-redis. Prints what each call returns, a JSON line a call.
// node connect_redis.js HOST:PORT one|any|cluster PROTOCOL PREFIX
const { strict: assert } = require("assert");
const http = require("http");
const { RedisStore } = require("connect-redis");
const session = require("express-session");
const redis = require("redis");
const { say } = require("../../../support/npm/output.js");
const { together } = require("./processes.js");

const [address, kind, protocol, prefix] = process.argv.slice(2);
const url = `redis://${address}`;

// Starts a server with sessions in Redis; returns a function that makes a browser of it.
async function served(client) {
  const store = new RedisStore({ client, prefix });
  const middleware = session({ store, secret: "s", resave: false, saveUninitialized: false, cookie: { maxAge: 100000 } });
  const server = http.createServer((request, response) => middleware(request, response, () => {
    const mine = request.session;
    const done = (value) => response.end(JSON.stringify(value ?? null));
    if (request.url === "/end") return mine.destroy(done);
    if (request.url === "/anew") return mine.regenerate(() => { mine.anew = true; done(request.session.visits); });
    if (request.url === "/seen") return done(mine.visits);
    mine.visits = (mine.visits ?? 0) + 1;
    mine.seen = [...(mine.seen ?? []), { "ä": mine.visits, none: null }];
    done([mine.visits, mine.seen]);
  }));
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const browser = () => {
    let cookie = "";
    return async (path) => {
      const reply = await fetch(`http://127.0.0.1:${server.address().port}${path}`, { headers: { cookie } });
      cookie = reply.headers.get("set-cookie")?.split(";")[0] ?? cookie;
      return reply.json();
    };
  };
  return { store, server, browser };
}

async function main() {
  const options = { RESP: Number(protocol) };
  const client = kind === "cluster"
    ? redis.createCluster({ rootNodes: [{ url }], ...options })
    : redis.createClient({ url, ...options });
  client.on("error", (error) => console.error(error));
  await client.connect();
  const { store, server, browser } = await served(client);
  try {
    const [one, other] = [browser(), browser()];
    if (process.send) {
      for (let visit = 1; visit <= 20; visit++) assert.equal((await one("/"))[0], visit);
      return;
    }
    say("visits", await one("/"), await one("/"), await one("/"), await one("/seen"));
    say("another", await other("/seen"), await other("/"), await other("/seen"));
    say("stored", await store.length(), (await store.ids()).length);
    say("all", (await store.all()).map((each) => [each.visits, each.seen]).sort());
    const [id] = await store.ids();
    say("expiry", (await client.ttl(prefix + id)) > 90, (await client.ttl(prefix + id)) <= 100);
    await client.expire(prefix + id, 50);
    await store.touch(id, { cookie: { expires: new Date(Date.now() + 80000) } });
    say("touch", (await client.ttl(prefix + id)) > 70);
    say("none", await store.get("none"), await store.destroy("none"));
    say("ended", await one("/end"), await one("/seen"), await store.length());
    say("anew", await other("/anew"), await other("/"), await store.length());
    if (process.env.PROCESSES) say("processes", await together(), await store.length());
    say("clear", await store.clear(), await store.length(), await other("/seen"));
  } finally {
    server.closeAllConnections();
    server.close();
    client.destroy();
  }
}

main();
