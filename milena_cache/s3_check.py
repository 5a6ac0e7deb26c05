"""Shell. The command `milena s3 check`: probes the store that a node with this environment would use.

    0    everything works
    1    something does not work, or could not be determined
    2    wrong usage, or the environment is invalid

It reads `.env` and the variables S3_BUCKET, S3_PREFIX, AWS_REGION, S3_ENDPOINT_URL and AWS's credentials, and
writes below `<S3_PREFIX>.milena-probe/`, as the node does at its start.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Sequence

from milena_cache.configuration.config import StoreConfig, load_store
from milena_cache.objects.object_store import OriginFailure
from milena_cache.origin.clients.boto3_session import make_session
from milena_cache.origin.conditions import Capability, Conditions, State
from milena_cache.origin.requests import Origin
from milena_cache.origin.s3.credentials import Credentials
from milena_cache.origin.s3_store import S3
from milena_cache.origin.store_probe import StoreProbe
from milena_common.api.errors import ConfigError
from milena_common.process import run as process
from milena_common.runtime.clock import SystemClock

PROGRAM = "milena s3 check"
FAILED, USAGE = 1, 2
# No fault if it is not so: a bucket that is encrypted by SSE-KMS has other ETags.
ETAG = Capability.ETAG
CONCURRENCY = 8


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; exits if it is invalid, or if help was requested."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Probe whether the S3 store honours conditional writes, user metadata and the order of "
        "listings. Writes a few tiny objects below .milena-probe/ and removes them.",
        epilog="Exit code 0: all works; 1: something does not, or is unknown; 2: the environment is invalid.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args(argv)


async def check(config: StoreConfig) -> Conditions:
    """Probe the store once. Raises OriginFailure if the bucket cannot be used, ConfigError for a wrong profile."""
    clock = SystemClock()
    make_session(config.s3)  # raises ConfigError for a wrong profile
    store = S3(Credentials(config.s3, lambda: make_session(config.s3)), config.s3, clock, 0)
    origin = Origin(
        store,
        clock,
        random.random,
        fresh=store.unpooled(),
        retries=3,
        concurrency=CONCURRENCY,
        place_timeout=config.s3.timeout,
        hedge_after=config.s3.timeout,
    )
    conditions = Conditions("auto")
    bucket = config.buckets.default
    probe = StoreProbe(origin, bucket, config.buckets.prefix, conditions, clock, random.random)
    try:
        await origin.check_bucket(bucket)
        conditions.learn((await probe.probe()).findings)
    finally:
        await origin.close()
    return conditions


def show(conditions: Conditions, *, as_json: bool) -> None:
    """Print the findings, one line for each capability, or as JSON by name."""
    findings = {each.value: finding for each, finding in conditions.findings.items()}
    if as_json:
        print(
            json.dumps(
                {name: {"state": each.state.value, "detail": each.detail} for name, each in findings.items()}
            )
        )
        return
    width = max(map(len, findings))
    for name, (state, detail) in findings.items():
        print(f"{name:{width}}  {state.value}{detail and ': ' + detail}")


def main() -> None:
    """Run the command."""
    options = arguments(sys.argv[1:])
    try:
        conditions = asyncio.run(check(load_store(process.environment())))
    except ConfigError as error:
        for problem in error.problems:
            print(f"{PROGRAM}: {problem}", file=sys.stderr)
        sys.exit(USAGE)
    except OriginFailure as failure:
        print(f"{PROGRAM}: the bucket cannot be used: {failure}", file=sys.stderr)
        sys.exit(FAILED)
    show(conditions, as_json=options.json)
    works = all(finding.state is State.WORKS for each, finding in conditions.findings.items() if each is not ETAG)
    sys.exit(0 if works else FAILED)


if __name__ == "__main__":
    main()
