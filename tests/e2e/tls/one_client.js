// node one_client.js IOREDIS HOST PORT CA: ioredis sets and gets keys over TLS, as the user app, and follows the ring.
// Prints ok, or the text of the error.
const [ioredis, host, port, ca] = process.argv.slice(2);
const Redis = require(ioredis);
const tls = { ca: require("fs").readFileSync(ca) };
const login = { username: "app", password: "the-password-of-app", tls };

function fail(error) {
  console.log(String(error.message || error));
  process.exit(0);
}

async function main() {
  // A plain client first: the one for clusters hides why it cannot connect.
  const one = new Redis({ host, port: Number(port), retryStrategy: null, ...login });
  one.on("error", fail);
  await one.ping();
  one.disconnect();
  const cluster = new Redis.Cluster([{ host, port: Number(port) }], { redisOptions: login });
  for (let number = 0; number < 20; number++) {
    await cluster.set(`app/${number}`, `v${number}`);
    if ((await cluster.get(`app/${number}`)) !== `v${number}`) throw new Error("another value");
  }
  cluster.disconnect();
  console.log("ok");
}

main().catch(fail);
