"""Shell. Reads by blocking clients.

    python -m bench.sync_reads milena    HOST:PORT WORK SECONDS    through the router at that address
    python -m bench.sync_reads redis_py  HOST:PORT WORK SECONDS    from the Redis server at that address
    python -m bench.sync_reads boto3     S3_URL    cold SECONDS    new keys, straight from S3, 32 threads

WORK is `one`, hot keys one after another; `many`, a hundred at a time; `near`, from the client's own memory; or the
size of large values.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from itertools import batched, cycle

from bench.case import Figures
from bench.child import print_figures
from bench.hot_keys import HOT_KEYS, large_keys
from bench.load import WARM_UP, one_after_another, with_threads
