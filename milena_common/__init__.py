"""The ground floor that router, nodes and clients share: types, protocols, pure decisions.

It imports nothing else of Milena.
"""

import os

# gRPC reads it when it is imported, which no module of Milena does before this line. Its fork handlers do not
# work in a process whose threads use gRPC all the time, as these do: children die of SIGSEGV (see
# milena_common/runtime/forks.py).
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
