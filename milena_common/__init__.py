"""The ground floor that router, nodes and clients share: types, protocols, pure decisions.

- `api`: errors, keys, durability, the table of methods; `cluster`: slots, the ring, and following it.
- `runtime`: time, order, ownership by loop and process; `process`: configuration, logs, signals of a process.
- `network`: addresses, connections, listening sockets; `resp`, `rpc`: the Redis protocol and gRPC.
- `tls`: certificates of connections, replaced while a process runs.
- `limits`: bounds of a process; `metrics`: counts, and the HTTP server that exports them.

- `build`: whether the hot modules run compiled.

It imports nothing else of Milena.
"""

import os

from milena_common.build import heed_milena_pure

heed_milena_pure()

# gRPC reads this variable when it is imported, and no module of Milena imports gRPC before this line. gRPC's fork
# handlers do not work in a process whose threads use gRPC all the time, as Milena's do: children die of SIGSEGV
# (see milena_common/runtime/forks.py).
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
