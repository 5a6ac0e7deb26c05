"""Shell. Logging for processes: one line an event, JSON or text, on standard output.

The message carries everything a reader needs, so that both formats, and `grep`, show the same.
"""

from __future__ import annotations

import logging
import sys
from typing import Final

from pythonjsonlogger.json import JsonFormatter

LEVELS: Final = ("debug", "info", "warning", "error")
FORMATS: Final = ("json", "text")


def set_up(level: str, style: str) -> None:
    """Send the log of the whole process to standard output."""
    handler = logging.StreamHandler(sys.stdout)
    if style == "json":
        handler.setFormatter(
            JsonFormatter(
                "{asctime}{levelname}{name}{message}",
                style="{",
                rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            )
        )
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # One line for each scrape and each credential look-up is noise to an operator.
    for noisy in ("aiohttp.access", "botocore", "boto3", "urllib3", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
