#!/usr/bin/env bash
# moto 5.2.5: CopyObject with x-amz-copy-source-if-match of another ETag copies all the same, while
# x-amz-copy-source-if-none-match of the present ETag is refused.
#
# S3 answers 412 PreconditionFailed to both. So a metadata change by a copy of an object onto itself, guarded by its
# ETag, overwrites with moto what another writer has put there meanwhile, and tests of the guard prove nothing.
#
# Exits with 0 as long as that is so, with 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'moto[s3,server]==5.2.5' 'boto3==1.44.8'
cd "$folder"
AWS_ACCESS_KEY_ID=a AWS_SECRET_ACCESS_KEY=b venv/bin/python - <<'PY'
import os
import sys

import boto3
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
s3 = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
s3.create_bucket(Bucket="bucket")
first = s3.put_object(Bucket="bucket", Key="k", Body=b"first")["ETag"]
s3.put_object(Bucket="bucket", Key="k", Body=b"of another writer")
seen = {}
for name, condition in {
    "CopySourceIfMatch, another ETag": {"CopySourceIfMatch": first},
    "CopySourceIfNoneMatch, its own ETag": {
        "CopySourceIfNoneMatch": s3.head_object(Bucket="bucket", Key="k")["ETag"]
    },
}.items():
    try:
        s3.copy_object(
            Bucket="bucket",
            Key="k",
            CopySource={"Bucket": "bucket", "Key": "k"},
            MetadataDirective="REPLACE",
            Metadata={"a": "b"},
            **condition,
        )
        seen[name] = "200"
    except ClientError as error:
        seen[name] = error.response["Error"]["Code"]
    print(f"{name}: {seen[name]} (S3: PreconditionFailed)")
expected = {"CopySourceIfMatch, another ETag": "200", "CopySourceIfNoneMatch, its own ETag": "PreconditionFailed"}
sys.stdout.flush()
os._exit(seen != expected)
PY
