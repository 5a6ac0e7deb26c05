#!/usr/bin/env bash
# grpcio-tools 1.80.0 (protoc --pyi_out): a field with the name of a Python type spoils the stub of its message.
#
# The stub declares fields as attributes of the class, in whose body `bytes` is the field from then on, also where the
# type is meant. So a message with `uint64 bytes` and a later field of type bytes has a stub that mypy rejects ("is not
# valid as a type"); protoc and Python say nothing. mypyc, which reads the stubs of what it compiles against, stops.
#
# Exits with 0 as long as that is so, with 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'grpcio-tools==1.80.0' 'mypy==2.4.1' 2>/dev/null
cd "$folder"
cat >job.proto <<'PROTO'
syntax = "proto3";
message Job {
  uint64 bytes = 1;
  repeated bytes left = 2;
}
PROTO
venv/bin/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. job.proto
venv/bin/python -c 'import job_pb2; print(job_pb2.Job(bytes=3, left=[b"k"]).left)'
if venv/bin/mypy --ignore-missing-imports job_pb2.pyi >report; then
    echo "mypy accepts the stub now"
    exit 1
fi
cat report
grep -q 'Variable "job_pb2.Job.bytes" is not valid as a type' report
