"""Shell. Logging for processes: one line for each event, JSON or text, on standard output.

The message has all information, so that both formats, and `grep`, show the same. Messages quote keys, names and
texts of peers; characters that are not printable are escaped in both formats, and a traceback is indented, so that
nothing that a peer sends can look like a line of this log.
"""

from __future__ import annotations

import logging
import sys
import textwrap
from typing import Any, Final

from pythonjsonlogger.json import JsonFormatter

LEVELS: Final = ("debug", "info", "warning", "error")
FORMATS: Final = ("json", "text")


class TextFormatter(logging.Formatter):
    """Formats one line for each event, followed by indented lines for a traceback."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line of `record`, with unprintable characters of its message as backslash escapes."""
        record.message = escape(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        """Return the traceback of `ei`, each line indented."""
        return textwrap.indent(super().formatException(ei), "    ", lambda line: True)


def _name_level(record: logging.LogRecord) -> bool:
    """Spell the level as LOG_LEVEL does: `grep error` finds errors, in both formats."""
    record.level = record.levelname.lower()
    return True


def escape(text: str) -> str:
    """Return `text` with every unprintable character, line breaks included, as a backslash escape."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def set_up(level: str, style: str) -> None:
    """Send the log of the whole process to standard output."""
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(_name_level)
    if style == "json":
        handler.setFormatter(
            JsonFormatter(
                "{asctime}{level}{name}{message}",
                style="{",
                rename_fields={"asctime": "time", "name": "logger"},
            )
        )
    else:
        handler.setFormatter(TextFormatter("%(asctime)s %(level)-7s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # One line for each scrape and each credential lookup is noise to an operator.
    for noisy in ("aiohttp.access", "botocore", "boto3", "urllib3", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
