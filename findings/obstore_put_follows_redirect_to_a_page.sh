#!/usr/bin/env bash
# obstore 0.12.1: a reply 303 to a PUT is followed by a GET of its Location, and what that returns counts as the
# reply to the PUT: put() returns normally, with the ETag of the page, although nothing was stored. A 307 of a GET to
# another path of the same host is followed too. ClientConfig has no setting for redirects.
#
# Seen: a server replies to the PUT with `303 Location: /page`, and gets `GET /page`; put() returned
# {'e_tag': '"page"', 'version': None}. A cache in front of S3 that counts on put() to raise unless the object is
# stored has to compare the ETag itself, which is possible where it is an MD5.
#
# Exits with 0 as long as put() returns after a 303, with 1 when that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'obstore==0.12.1'
cd "$folder"
venv/bin/python - <<'PY'
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import obstore
from obstore.store import S3Store

requests = []


class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        requests.append(f"PUT {self.path}")
        self.send_response(303)
        self.send_header("Location", "/page")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self):
        requests.append(f"GET {self.path}")
        self.send_response(200)
        self.send_header("ETag", '"page"')
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"page")

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
store = S3Store(
    "bucket",
    endpoint=f"http://127.0.0.1:{server.server_port}",
    region="us-east-1",
    skip_signature=True,
    client_options={"allow_http": True},
)
try:
    result = obstore.put(store, "key", b"value", use_multipart=False)
except Exception as error:
    print("obstore", obstore.__version__, "put() raised", type(error).__name__)
    sys.exit(1)
print("obstore", obstore.__version__, "put() returned", dict(result), "after", requests)
sys.exit(requests != ["PUT /bucket/key", "GET /page"])
PY
