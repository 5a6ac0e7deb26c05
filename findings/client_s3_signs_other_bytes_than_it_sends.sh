#!/usr/bin/env bash
# @aws-sdk/client-s3 3.1175.0 (JavaScript): a put whose metadata have a letter of Latin-1 that is not ASCII, as "ä", has
# a right signature if its body is a string, and a wrong one if it is a Buffer. It signs the letter's UTF-8. Node.js sends
# headers together with a body that is a string as UTF-8, and others as Latin-1. So a server that verifies signatures, as S3
# does, stores the first and rejects the second: SignatureDoesNotMatch. In Content-Disposition the letter is sent as the
# replacement character, U+FFFD, and neither is right. moto stores all of them, since it verifies nothing.
#
# Seen with a server that computes the signature over the bytes that it gets.
#
# Exits with 0 as long as that is so, with 1 when it has changed. Needs Node.js 20.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund @aws-sdk/client-s3@3.1175.0
cat >put.js <<'JS'
const { createHash, createHmac } = require("crypto");
const http = require("http");
const { S3Client, PutObjectCommand } = require("@aws-sdk/client-s3");
const secretAccessKey = "secret";
const digest = (bytes) => createHash("sha256").update(bytes).digest("hex");
const hmac = (key, text) => createHmac("sha256", key).update(text).digest();

// The signature, version 4, over what was sent; Node.js decodes each byte of a header as Latin-1.
function signature(request) {
  const [, scope, signed] = /Credential=[^/]+\/([^,]+), SignedHeaders=([^,]+)/.exec(request.headers.authorization);
  const lines = signed.split(";").map((name) => `${name}:${request.headers[name].trim()}\n`).join("");
  const [path, query] = request.url.split("?");
  const canonical = [request.method, path, query, lines, signed, request.headers["x-amz-content-sha256"]].join("\n");
  const parts = ["AWS4-HMAC-SHA256", request.headers["x-amz-date"], scope, digest(Buffer.from(canonical, "latin1"))];
  return hmac(scope.split("/").reduce(hmac, `AWS4${secretAccessKey}`), parts.join("\n")).toString("hex");
}

const seen = [];
const server = http.createServer((request, response) => {
  const letter = request.headers["x-amz-meta-name"] ?? request.headers["content-disposition"];
  const right = request.headers.authorization.endsWith(`Signature=${signature(request)}`);
  seen.push(`${Buffer.from(letter, "latin1").toString("hex")} ${right ? "right" : "wrong"}`);
  request.resume().on("end", () => response.end());
});

server.listen(0, "127.0.0.1", async () => {
  const endpoint = `http://127.0.0.1:${server.address().port}`;
  const client = new S3Client({ endpoint, region: "us-east-1", credentials: { accessKeyId: "key", secretAccessKey } });
  for (const headers of [{ Metadata: { name: "a" } }, { Metadata: { name: "ä" } }, { ContentDisposition: "ä" }])
    for (const Body of ["1", Buffer.from("1")])
      await client.send(new PutObjectCommand({ Bucket: "bucket", Key: "key", Body, ...headers }));
  console.log("client-s3", require("@aws-sdk/client-s3/package.json").version, "Node.js", process.version);
  console.log("sent bytes and signature:", seen.join(", "));
  const expected = "61 right, 61 right, c3a4 right, e4 wrong, efbfbd wrong, fd wrong";
  process.exit(seen.join(", ") === expected ? 0 : 1);
});
JS
node --no-warnings put.js
