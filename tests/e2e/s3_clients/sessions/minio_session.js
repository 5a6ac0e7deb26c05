// minio for Node.js. Prints what each call returns, a JSON line a call.
// node minio_session.js URL BUCKET PREFIX NAME, with files `small` and `large` in the working directory.
const { createReadStream, readFileSync } = require("fs");
const { Client, CopyDestinationOptions, CopySourceOptions } = require("minio");
const { digest, say } = require("../../../support/npm/output.js");

const [endpoint, bucket, prefix, name] = process.argv.slice(2);
const { hostname, port } = new URL(endpoint);
const { AWS_ACCESS_KEY_ID: accessKey, AWS_SECRET_ACCESS_KEY: secretKey } = process.env;
const client = new Client({ endPoint: hostname, port: Number(port), useSSL: false, accessKey, secretKey, partSize: 5 << 20 });
const small = readFileSync("small");
const large = readFileSync("large");
const refused = (call) => call.then(() => "done", (error) => error.code);

async function all(stream) {
  const items = [];
  for await (const item of stream) items.push(item);
  return items;
}
const body = async (stream) => digest(Buffer.concat(await all(await stream)));
const short = (key) => key.slice(prefix.length);
const item = (each) => (each.prefix ? short(each.prefix) : [short(each.name), each.size, each.etag]);
const listed = async (stream) => (await all(stream)).map(item);

async function main() {
  say("bucket", await client.bucketExists(bucket), await client.bucketExists("another-bucket"));
  const type = { "Content-Type": "text/x-milena", "X-Amz-Meta-Kept": "here" };
  say("put", (await client.putObject(bucket, prefix + name, small, small.length, type)).etag);
  const stat = await client.statObject(bucket, prefix + name);
  say("stat", stat.etag, stat.size, stat.metaData, stat.lastModified instanceof Date);
  say("get", await body(client.getObject(bucket, prefix + name)));
  say("put a stream", (await client.putObject(bucket, `${prefix}stream`, createReadStream("small"))).etag);
  say("get the stream", await body(client.getObject(bucket, `${prefix}stream`)));
  say("put nothing", (await client.putObject(bucket, `${prefix}empty`, Buffer.alloc(0))).etag);
  say("get nothing", await body(client.getObject(bucket, `${prefix}empty`)));
  say("put a file", (await client.fPutObject(bucket, `${prefix}large`, "large")).etag);
  await client.fGetObject(bucket, `${prefix}large`, "back");
  say("get a file", digest(readFileSync("back")));
  say("stream parts", (await client.putObject(bucket, `${prefix}parts`, createReadStream("large"))).etag);
  say("part", await body(client.getPartialObject(bucket, `${prefix}parts`, 9000000, 100)));
  say("from there on", await body(client.getPartialObject(bucket, `${prefix}parts`, large.length - 10)));

  const create = { "If-None-Match": "*" };
  const commit = (value) => refused(client.putObject(bucket, `${prefix}commit`, value, value.length, create));
  say("creates", await commit("1"), await commit("2"), await body(client.getObject(bucket, `${prefix}commit`)));
  const { etag } = await client.copyObject(bucket, `${prefix}copy`, `/${bucket}/${prefix}${name}`);
  say("copy", etag, await body(client.getObject(bucket, `${prefix}copy`)));
  const range = { MatchRange: true, Start: 0, End: (6 << 20) - 1 };
  const from = new CopySourceOptions({ Bucket: bucket, Object: `${prefix}large`, ...range });
  const rest = new CopySourceOptions({ Bucket: bucket, Object: `${prefix}stream` });
  const to = new CopyDestinationOptions({ Bucket: bucket, Object: `${prefix}composed` });
  say("compose", (await client.composeObject(to, [from, rest])).etag);
  say("composed", await body(client.getObject(bucket, `${prefix}composed`)));

  say("list", await listed(client.listObjects(bucket, prefix, true)));
  say("list by V2", await listed(client.listObjectsV2(bucket, prefix, true)));
  say("folders", await listed(client.listObjectsV2(bucket, prefix, false)));
  const url = await client.presignedGetObject(bucket, prefix + name, 60, { "response-content-type": "a/b" });
  const fetched = await fetch(url);
  say("presigned get", digest(Buffer.from(await fetched.arrayBuffer())), fetched.headers.get("content-type"));
  const where = await client.presignedPutObject(bucket, `${prefix}presigned`, 60);
  say("presigned put", (await fetch(where, { method: "PUT", body: large })).status);
  say("what was put", await body(client.getObject(bucket, `${prefix}presigned`)));

  await client.removeObject(bucket, `${prefix}copy`);
  say("delete some", await client.removeObjects(bucket, ["stream", "parts", "none"].map((key) => prefix + key)));
  say("gone", await refused(client.getObject(bucket, `${prefix}copy`)),
    await refused(client.statObject(bucket, `${prefix}stream`)));
  const unfinished = () => all(client.listIncompleteUploads(bucket, prefix, true)).then((each) => each.length, String);
  await client.initiateNewMultipartUpload(bucket, `${prefix}unfinished`, {});
  say("unfinished", await unfinished());
  await client.removeIncompleteUpload(bucket, `${prefix}unfinished`);
  say("removed", await unfinished());
}

main();
