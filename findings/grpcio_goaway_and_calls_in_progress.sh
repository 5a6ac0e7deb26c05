#!/usr/bin/env bash
# grpcio 1.80.1, client: both a call that the server has not begun and one that it has begun end with UNAVAILABLE
# when the server says GOAWAY, but with other details.
#
# - The GOAWAY names a lower stream than the call's: gRPC sends the call again, once, on the next connection, whatever
#   its retry policy. If that one says GOAWAY too, the details are "GOAWAY received; Error code: 0; Debug Text: " and
#   the text of the frame. The server has begun neither.
# - The GOAWAY names the call's stream, and the connection ends before the response: "Socket closed". The call may
#   have been carried out.
#
# So the details tell which call may be made again although it is no read. Error code 0 (NO_ERROR) is that of a server
# that stops in order.
#
# Seen: lower stream: 2 attempts, "GOAWAY received; Error code: 0; Debug Text: stops"; the call's stream: 1 attempt,
# "Socket closed". Exits with 0 as long as that is so, with 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'grpcio==1.80.1' 'h2==4.3.0'
cd "$folder"
venv/bin/python - <<'PY'
import socket
import sys
import threading

import grpc
import h2.config
import h2.connection
import h2.events


def serve(listener, names_call, attempts):
    """Say GOAWAY at each call, and end the connection."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        link = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        link.initiate_connection()
        connection.sendall(link.data_to_send())
        called = False
        while not called and (data := connection.recv(65536)):
            for event in link.receive_data(data):
                if isinstance(event, h2.events.StreamEnded):
                    called = True
                    attempts.append(event.stream_id)
                    last = event.stream_id if names_call else event.stream_id - 1
                    link.close_connection(error_code=0, additional_data=b"stops", last_stream_id=last)
            connection.sendall(link.data_to_send())
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
        connection.close()


def call(names_call):
    """Return the number of attempts, and how the call ended."""
    attempts = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener, names_call, attempts), daemon=True).start()
        with grpc.insecure_channel(f"127.0.0.1:{listener.getsockname()[1]}") as channel:
            try:
                channel.unary_unary("/service/Put")(b"value", timeout=10)
            except grpc.RpcError as error:
                return len(attempts), error.code().name, error.details()
    return len(attempts), "OK", ""


found = {"lower stream": call(False), "the call's stream": call(True)}
for name, each in found.items():
    print(f"{name}: {each}")
expected = {
    "lower stream": (2, "UNAVAILABLE", "GOAWAY received; Error code: 0; Debug Text: stops"),
    "the call's stream": (1, "UNAVAILABLE", "Socket closed"),
}
sys.exit(found != expected)
PY
