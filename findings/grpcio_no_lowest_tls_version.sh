#!/usr/bin/env bash
# grpcio 1.80.1: a server's lowest version of TLS cannot be set from Python. The only way found is the environment
# variable GRPC_SSL_CIPHER_SUITES, with a cipher that needs a pre-shared key: it is a list for TLS 1.2 alone, so that
# no connection of 1.2 can be made, and those of 1.3 are not affected. It is read when grpc is imported: set after
# that it changes nothing, without a warning.
#
# Seen: set before the import, TLS 1.2 is rejected and 1.3 taken; set after it, both are taken.
#
# Exits with 0 as long as that is so, with 1 when it has changed. Needs openssl.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'grpcio==1.80.1'
cd "$folder"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost \
    -keyout key.pem -out cert.pem 2>/dev/null
cat >server.py <<'PY'
import os
import ssl
import socket
import sys
from concurrent import futures
from pathlib import Path

CIPHER = "ECDHE-PSK-AES256-CBC-SHA"
if sys.argv[1] == "before":
    os.environ["GRPC_SSL_CIPHER_SUITES"] = CIPHER
import grpc

if sys.argv[1] == "after":
    os.environ["GRPC_SSL_CIPHER_SUITES"] = CIPHER
server = grpc.server(futures.ThreadPoolExecutor(1))
pair = Path("key.pem").read_bytes(), Path("cert.pem").read_bytes()
port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
server.start()
taken = []
for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
    context = ssl.create_default_context(cafile="cert.pem")
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    context.check_hostname = False
    try:
        with socket.create_connection(("127.0.0.1", port), 10) as plain:
            taken.append(context.wrap_socket(plain).version())
    except OSError:
        pass
print(" ".join(taken))
PY
before=$(venv/bin/python server.py before 2>/dev/null)
after=$(venv/bin/python server.py after 2>/dev/null)
echo "set before the import: $before; after it: $after"
[ "$before" = "TLSv1.3" ] && [ "$after" = "TLSv1.2 TLSv1.3" ]
