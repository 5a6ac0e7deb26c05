#!/usr/bin/env bash
# grpcio 1.80.1, asyncio server: a handler that sets an error with context.set_code() and returns sends a response
# message all the same, of length 0, before the trailers with the status. After context.abort() there is none: the
# response is trailers only.
#
# gRPC's clients ignore the message of a failed call, so calls through a stub look alike. What reads the frames itself
# sees a difference: a load generator that takes a DATA frame for success counts each such error as a success, and a
# proxy cannot send the error on as trailers only.
#
# Seen, as the frames of the response stream: set_code: HEADERS, DATA (5 bytes), HEADERS; abort: HEADERS.
# Exits with 0 as long as that is so, with 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'grpcio==1.80.1' 'h2==4.3.0'
cd "$folder"
venv/bin/python - <<'PY'
import asyncio
import sys

import grpc
import h2.config
import h2.connection
import h2.events


async def sets_code(request, context):
    context.set_code(grpc.StatusCode.NOT_FOUND)
    return b"ignored"


async def aborts(request, context):
    await context.abort(grpc.StatusCode.NOT_FOUND, "")


async def frames(port, path):
    """Return the kinds of the frames with which the server responds to one call."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    link = h2.connection.H2Connection(h2.config.H2Configuration())
    link.initiate_connection()
    pseudo = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost")]
    link.send_headers(1, [*pseudo, ("content-type", "application/grpc"), ("te", "trailers")])
    link.send_data(1, b"\0\0\0\0\0", end_stream=True)
    writer.write(link.data_to_send())
    seen = []
    while True:
        for event in link.receive_data(await reader.read(65536)):
            if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                seen.append("HEADERS")
            elif isinstance(event, h2.events.DataReceived):
                seen.append(f"DATA ({len(event.data)} bytes)")
            elif isinstance(event, h2.events.StreamEnded):
                writer.close()
                return seen
        writer.write(link.data_to_send())


async def main():
    server = grpc.aio.server()
    methods = {
        "SetsCode": grpc.unary_unary_rpc_method_handler(sets_code),
        "Aborts": grpc.unary_unary_rpc_method_handler(aborts),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s.S", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    seen = [await frames(port, "/s.S/SetsCode"), await frames(port, "/s.S/Aborts")]
    await server.stop(0)
    return seen


seen = asyncio.run(main())
print("grpcio", grpc.__version__, "set_code:", ", ".join(seen[0]), "| abort:", ", ".join(seen[1]))
sys.exit(seen != [["HEADERS", "DATA (5 bytes)", "HEADERS"], ["HEADERS"]])
PY
