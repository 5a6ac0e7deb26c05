#!/usr/bin/env bash
# node-redis (redis 6.3.1) with RESP 2: once a client has unsubscribed from its last channel, its texts are Buffers. With
# RESP 3, the default, they are not.
#
# It keeps the parser of a subscribed client.
# Seen at redis-server 7.0.
#
# Exits with 0 as long as that is so, with 1 when it has changed. Needs redis-server and Node.js.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill ${server:-} 2>/dev/null || true; rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund redis@6.3.1
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
redis-server --bind 127.0.0.1 --port "$port" --save '' >/dev/null 2>&1 &
server=$!
cat >calls.js <<'JS'
const redis = require("redis");
const url = `redis://127.0.0.1:${process.argv[2]}`;

async function replies(RESP) {
  const client = redis.createClient({ url, RESP });
  await client.connect();
  await client.set("key", "value");
  const before = await client.get("key");
  await client.subscribe("news", () => {});
  await client.unsubscribe("news");
  const seen = [before, await client.get("key")];
  client.destroy();
  return JSON.stringify(seen);
}

async function main() {
  const seen = [await replies(2), await replies(3)];
  console.log("redis", require("redis/package.json").version);
  console.log(seen.join("\n"));
  const bytes = { type: "Buffer", data: [...Buffer.from("value")] };
  const expected = [["value", bytes], ["value", "value"]];
  process.exit(seen.join() === expected.map((each) => JSON.stringify(each)).join() ? 0 : 1);
}

main();
JS
node calls.js "$port"
