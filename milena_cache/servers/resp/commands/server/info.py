"""Pure. INFO: selects the requested sections, and formats them as Redis does.

`info_sections` has their fields. Unknown sections are left out, as in Redis.
"""

from __future__ import annotations

from milena_cache.servers.resp.commands.server.info_sections import DEFAULT, SECTIONS
from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_common.resp.encoding import Verbatim

EVERYTHING = ("all", "everything")


COMMANDS = CommandTable[Context]()


@COMMANDS.command(
    "info",
    arity=-1,
    flags=("loading", "stale"),
    categories=("dangerous",),
    group="server",
    summary="Returns information and statistics about the server.",
)
def info(context: Context, session: Session, argv: list[bytes]) -> Verbatim:
    requested = {word.decode(errors="replace").lower() for word in argv[1:]} or {"default"}
    texts = []
    for name, section in SECTIONS.items():
        if (
            name.lower() in requested
            or requested.intersection(EVERYTHING)
            or (name in DEFAULT and "default" in requested)
        ):
            fields = "".join(f"{field}:{value}\r\n" for field, value in section(context).items())
            texts.append(f"# {name}\r\n{fields}")
    return Verbatim("\r\n".join(texts))
