// @aws-sdk/client-s3 with lib-storage and the presigner. Prints what each call returns, a JSON line a call.
// node client_s3_session.js URL BUCKET PREFIX NAME, with files `small` and `large` in the working directory.
const { createReadStream, readFileSync } = require("fs");
const s3 = require("@aws-sdk/client-s3");
const { Upload } = require("@aws-sdk/lib-storage");
const { getSignedUrl } = require("@aws-sdk/s3-request-presigner");
const { digest, say } = require("../../../support/npm/output.js");

const [endpoint, Bucket, prefix, name] = process.argv.slice(2);
const client = new s3.S3Client({ endpoint });
const small = readFileSync("small");
const large = readFileSync("large");
const at = (key, more = {}) => ({ Bucket, Key: prefix + key, ...more });
const send = (command, input) => client.send(new s3[`${command}Command`](input));
const source = (key) => encodeURI(`${Bucket}/${prefix}${key}`).replace(/[?+&=]/g, encodeURIComponent);
const body = async (reply) => digest(await reply.Body.transformToByteArray());
const refusal = (error) => [error.name, error.$metadata?.httpStatusCode];
const refused = (command, input) => send(command, input).then(() => "done", refusal);
const short = (key) => key.slice(prefix.length);
const contents = (page) => (page.Contents ?? []).map((each) => [short(each.Key), each.Size, each.ETag]);

async function main() {
  const Metadata = { kept: "here", "with-dash": "1 2" };
  const put = await send("PutObject", at(name, { Body: small, Metadata, ContentType: "text/x-milena" }));
  say("put", put.ETag);
  const got = await send("GetObject", at(name));
  say("get", await body(got), got.ETag, got.Metadata, got.ContentType, got.ContentLength);
  const head = await send("HeadObject", at(name));
  say("head", head.ETag, head.Metadata, head.ContentType, head.ContentLength, head.LastModified instanceof Date);
  const stream = { Body: createReadStream("small"), ContentLength: small.length };
  say("put a stream", (await send("PutObject", at("stream", stream))).ETag);
  say("get the stream", await body(await send("GetObject", at("stream"))));
  say("put nothing", (await send("PutObject", at("empty", { Body: "" }))).ETag);
  say("get nothing", await body(await send("GetObject", at("empty"))));
  for (const ChecksumAlgorithm of ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
    say(ChecksumAlgorithm, (await send("PutObject", at("summed", { Body: small, ChecksumAlgorithm }))).ETag);
  say("wrong sum", await refused("PutObject", at("summed", { Body: small, ChecksumCRC32: "AAAAAA==" })));

  for (const Range of ["bytes=100-199", "bytes=1000-", "bytes=-24", "bytes=0-9999", "bytes=2000-"]) {
    const part = await send("GetObject", at(name, { Range })).catch(refusal);
    say(Range, part.Body ? [await body(part), part.ContentRange, part.$metadata.httpStatusCode] : part);
  }
  say("not modified", await refused("GetObject", at(name, { IfNoneMatch: put.ETag })));
  say("modified", await refused("GetObject", at(name, { IfMatch: '"another"' })));
  say("exists", await refused("PutObject", at(name, { Body: "1", IfNoneMatch: "*" })));
  say("creates", await refused("PutObject", at("commit", { Body: "1", IfNoneMatch: "*" })));
  say("was another", await refused("PutObject", at("commit", { Body: "2", IfMatch: put.ETag })));
  const { ETag } = await send("HeadObject", at("commit"));
  say("replaces", await refused("PutObject", at("commit", { Body: "2", IfMatch: ETag })));
  say("committed", await body(await send("GetObject", at("commit"))));

  const copied = await send("CopyObject", at("copy", { CopySource: source(name) }));
  const copy = await send("GetObject", at("copy"));
  say("copy", copied.CopyObjectResult.ETag, await body(copy), copy.Metadata, copy.ContentType);
  const replaced = { CopySource: source(name), MetadataDirective: "REPLACE", Metadata: { other: "1" } };
  await send("CopyObject", at("copy", { ...replaced, CopySourceIfMatch: put.ETag }));
  say("copy with metadata", (await send("HeadObject", at("copy"))).Metadata);

  const upload = new Upload({ client, partSize: 5 << 20, params: at("large", { Body: createReadStream("large") }) });
  say("upload", (await upload.done()).ETag);
  say("read parts", await body(await send("GetObject", at("large"))));
  const far = await send("GetObject", at("large", { Range: "bytes=9000000-9000099" }));
  say("part of it", await body(far), far.ContentRange);
  const wanted = ["ETag", "ObjectSize", "StorageClass"];
  const attributes = await send("GetObjectAttributes", at("large", { ObjectAttributes: wanted }));
  say("ETag", attributes.ETag);
  say("attributes", attributes.ObjectSize, attributes.StorageClass);

  const { UploadId } = await send("CreateMultipartUpload", at("parts", { Metadata }));
  const CopySourceRange = "bytes=0-5242879";
  const part1 = { PartNumber: 1, UploadId, CopySource: source("large"), CopySourceRange };
  const first = (await send("UploadPartCopy", at("parts", part1))).CopyPartResult.ETag;
  const second = (await send("UploadPart", at("parts", { PartNumber: 2, UploadId, Body: small }))).ETag;
  const listed = (await send("ListParts", at("parts", { UploadId }))).Parts;
  say("parts", listed.map((each) => [each.PartNumber, each.Size, each.ETag]));
  const Parts = [{ PartNumber: 1, ETag: first }, { PartNumber: 2, ETag: second }];
  const whole = await send("CompleteMultipartUpload", at("parts", { UploadId, MultipartUpload: { Parts } }));
  const parts = await send("GetObject", at("parts"));
  say("completed", whole.ETag, await body(parts), parts.Metadata);
  const given = (await send("CreateMultipartUpload", at("aborted"))).UploadId;
  await send("AbortMultipartUpload", at("aborted", { UploadId: given }));
  say("aborted", await refused("ListParts", at("aborted", { UploadId: given })));

  const pages = [];
  const listing = { Bucket, Prefix: prefix };
  for await (const page of s3.paginateListObjectsV2({ client, pageSize: 3 }, listing)) pages.push(page);
  say("list", pages.map(contents));
  const top = await send("ListObjectsV2", { ...listing, Delimiter: "/", StartAfter: `${prefix}E` });
  say("folders", top.CommonPrefixes?.map((each) => short(each.Prefix)), contents(top), top.KeyCount, top.IsTruncated);
  say("list by V1", contents(await send("ListObjects", listing)));
  say("bucket", (await send("HeadBucket", { Bucket })).$metadata.httpStatusCode);
  say("location", (await send("GetBucketLocation", { Bucket })).LocationConstraint ?? "");

  const url = await getSignedUrl(client, new s3.GetObjectCommand(at(name, { ResponseContentType: "a/b" })));
  const fetched = await fetch(url);
  say("presigned get", digest(Buffer.from(await fetched.arrayBuffer())), fetched.headers.get("content-type"));
  const where = await getSignedUrl(client, new s3.PutObjectCommand(at("presigned")), { expiresIn: 60 });
  say("presigned put", (await fetch(where, { method: "PUT", body: large })).status);
  say("what was put", await body(await send("GetObject", at("presigned"))));
  say("forged", (await fetch(where.replace(/Expires=60/, "Expires=61"), { method: "PUT", body: "1" })).status);

  say("delete", (await send("DeleteObject", at("copy"))).$metadata.httpStatusCode);
  const Objects = ["stream", "summed", "none"].map((key) => ({ Key: prefix + key }));
  const deleted = await send("DeleteObjects", { Bucket, Delete: { Objects } });
  say("delete some", deleted.Deleted.map((each) => short(each.Key)).sort(), deleted.Errors ?? []);
  say("get what is gone", await refused("GetObject", at("copy")), await refused("HeadObject", at("stream")));
  say("copy what is gone", await refused("CopyObject", at("copy", { CopySource: source("stream") })));
  say("another bucket", await refused("HeadObject", { Bucket: "another-bucket", Key: "1" }));
}

main();
