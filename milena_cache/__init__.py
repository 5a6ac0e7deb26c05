"""The cache node: serves objects of S3 from memory, reads through on a miss, and writes back from its journal.

- `servers`: the gRPC and RESP servers; `service`: the API methods, independent of protocols.
- `reads`, `memory`: reads and clean entries; `writes`, `journal`, `writeback`: writes, their durability, their
  uploads.
- `origin`: S3; `membership`: the ring; `objects`: basic types; `configuration`: the environment.
- `app`: wires a node's parts; `__main__`: runs the process; `exit_code`: the code with which it ends.
- `command`, `s3_check`: console commands; `metrics`: what `/metrics` exports.
"""

import milena_common  # noqa: F401  before any module that may be compiled: see milena_common.build
