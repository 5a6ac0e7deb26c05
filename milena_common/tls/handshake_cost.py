"""Shell. Measures the processor time that a server's part of a handshake takes, in memory.

It depends on the machine and the kind of key: with RSA it is several times that of an elliptic curve. The steps of
real handshakes are done inside a library that does not report them.
"""

from __future__ import annotations

import ssl
from time import thread_time

# The shortest of so many counts: others may have waited for memory, or for a core.
ROUNDS = 3
# Both sides are done after as many steps, or an error has ended it.
_MAX_STEPS = 8


def handshake_seconds(context: ssl.SSLContext) -> float:
    """Return the seconds of processor time of OpenSSL for one handshake with `context`, a server's."""
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.verify_mode = ssl.CERT_NONE
    return min(_one(context, client_context) for _ in range(ROUNDS))


def _one(context: ssl.SSLContext, client_context: ssl.SSLContext) -> float:
    to_server, to_client, of_server, of_client = (ssl.MemoryBIO() for _ in range(4))
    started = thread_time()
    server = context.wrap_bio(to_server, of_server, server_side=True)
    seconds = thread_time() - started
    client = client_context.wrap_bio(to_client, of_client)
    for _ in range(_MAX_STEPS):
        client_done = _step(client)
        to_server.write(of_client.read())
        started = thread_time()
        server_done = _step(server)
        seconds += thread_time() - started
        to_client.write(of_server.read())
        if client_done and server_done:
            break
    return seconds


def _step(side: ssl.SSLObject) -> bool:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    except ssl.SSLError:
        return True  # the server demands a certificate, which this client has not
    return True
