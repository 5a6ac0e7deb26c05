#!/usr/bin/env bash
# obstore 0.12.1: the client option read_timeout ends an upload whose bytes are still moving.
#
# One takes it for the longest silence while an answer is read, as it is for downloads. For an upload it runs from the
# start of the request until the head of the answer, however fast the server takes the body: 4 MiB to a server that
# reads 1 MiB a second fail with read_timeout=2s and arrive without it. An upload needs a time that grows with its size.
#
# Exits with 0 as long as that is so, with 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'obstore==0.12.1'
cd "$folder"
venv/bin/python - <<'PY'
import http.server
import sys
import threading
import time
from datetime import timedelta

import obstore
from obstore.store import S3Store

MIB = 2**20


class Slow(http.server.BaseHTTPRequestHandler):
    """Reads a body at 1 MiB a second, in small steps, and answers 200."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self):
        left = int(self.headers["Content-Length"])
        try:
            while left:
                left -= len(self.rfile.read(min(left, MIB // 10)))
                time.sleep(0.1)
            self.send_response(200)
            self.send_header("ETag", '"e"')
            self.send_header("Content-Length", "0")
            self.end_headers()
        except OSError:
            self.close_connection = True

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
# The kernel's buffers would take much of the body at once.
server.socket.setsockopt(__import__("socket").SOL_SOCKET, __import__("socket").SO_RCVBUF, 65536)
threading.Thread(target=server.serve_forever, daemon=True).start()
seen = {}
for name, limit in (("read_timeout=2s", {"read_timeout": timedelta(seconds=2)}), ("no read_timeout", {})):
    store = S3Store(
        "bucket",
        endpoint=f"http://127.0.0.1:{server.server_port}",
        region="us-east-1",
        access_key_id="a",
        secret_access_key="b",
        client_options={"allow_http": True, "timeout": timedelta(seconds=60), **limit},
        retry_config={"max_retries": 0},
    )
    started = time.monotonic()
    try:
        obstore.put(store, "k", bytes(4 * MIB), use_multipart=False)
        seen[name] = "arrived"
    except Exception as error:
        seen[name] = "failed"
    print(f"{name}: {seen[name]} after {time.monotonic() - started:.1f} s")
sys.exit(seen != {"read_timeout=2s": "failed", "no read_timeout": "arrived"})
PY
