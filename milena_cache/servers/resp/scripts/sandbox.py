"""Shell. Runs scripts in a sandbox of Lua 5.4 (the extra `lua`), which `prelude` makes.

**Bounds** of one run: INSTRUCTIONS of the interpreter; SECONDS of the process's time; SOFT_BYTES of memory, looked
at every EVERY instructions, and HARD_BYTES, at which Lua itself gets no more; MAX_BYTES of keys and arguments, of
each value that it reads, and of what one function makes. The event loop waits for a script: one that is stopped by
its time has taken that, and what EVERY instructions can take, which is some 0.1 s with the longest texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from milena_cache.servers.resp.scripts.prelude import EVERY, PRELUDE
from milena_common.api.errors import MilenaError
from milena_common.resp.encoding import Raw, Simple
from milena_common.resp.errors import to_resp
from milena_common.resp.redis_replies import CommandError

INSTRUCTIONS: Final = 1_000_000
SECONDS: Final = 0.1
SOFT_BYTES: Final = 16 * 2**20
HARD_BYTES: Final = 64 * 2**20
MAX_BYTES: Final = 4 * 2**20
# Keys and arguments of one script, which are arguments of a function of Lua.
MAX_ARGUMENTS: Final = 4000
# What may be left by a run before it is collected.
_LEFT_BYTES: Final = 4 * 2**20

NO_LUA: Final = "ERR scripts need the extra `lua` of this node's installation: pip install 'milena-cache[lua]'"

# Carries out a command of a script. Raises CommandError or MilenaError, which is its reply.
Call = Callable[[list[bytes]], Any]


class ScriptStopped(Exception):
    """A script was stopped because it exceeded a bound; the text says which."""


class Sandbox:
    """One sandbox, for all scripts of a process. Raises CommandError where Lua is not installed."""

    def __init__(self) -> None:
        try:
            from lupa import lua54
        except ImportError:
            raise CommandError(NO_LUA) from None
        self._lua54: Any = lua54
        self._call: Call | None = None
        self._items: Sequence[Any] = ()
        self._make()

    def _make(self) -> None:
        def denied(found: object, name: object, setting: bool) -> str:
            raise AttributeError("not available in scripts")

        self._lua = lua = self._lua54.LuaRuntime(
            encoding=None,
            register_eval=False,
            register_builtins=False,
            unpack_returned_tuples=True,
            attribute_filter=denied,
            max_memory=HARD_BYTES,
        )
        prelude = lua.compile(PRELUDE, name=b"=prelude", mode=b"t")
        made = prelude(self._fetch, self._item, EVERY, INSTRUCTIONS, SOFT_BYTES, SECONDS, MAX_BYTES)
        self._compile, self._run = made

    def check_source(self, digest: bytes, source: bytes) -> None:
        """Raise CommandError if `source` is no script."""
        compiled = self._compile(digest, source)
        if compiled is not True:
            reason = compiled[1].decode(errors="replace")
            raise CommandError(f"ERR Error compiling script (new function): {reason}")

    def run(self, digest: bytes, source: bytes, keys: Sequence[bytes], argv: Sequence[bytes], call: Call) -> Raw:
        """Return the script's reply, encoded in RESP3; an error that the script returns or raises is one too.

        Raises CommandError if it is no script, and ScriptStopped.
        """
        if sum(map(len, keys)) + sum(map(len, argv)) > MAX_BYTES or len(keys) + len(argv) > MAX_ARGUMENTS:
            raise CommandError(
                f"ERR the keys and arguments of a script have at most {MAX_BYTES} bytes, and are at most "
                f"{MAX_ARGUMENTS}"
            )
        self.check_source(digest, source)
        self._call = call
        try:
            done, result = self._run(digest, len(keys), *keys, *argv)
        except Exception as error:
            self._make()  # it raises at each instruction from now on, or its state is unknown
            raise ScriptStopped(_reason(error)) from None
        finally:
            self._call, self._items = None, ()
        if self._lua.get_memory_used() > _LEFT_BYTES:
            self._lua.gccollect()
        return Raw(result if done else b"-%b\r\n" % result)

    # ---- called by Lua: return texts, numbers and None, and raise nothing

    def _fetch(self, *argv: bytes) -> tuple[bytes, Any]:
        try:
            assert self._call is not None
            reply = self._call(list(argv))
        except CommandError as error:
            return b"error", _line(str(error))
        except MilenaError as error:
            return b"error", _line(to_resp(error))
        except BaseException:
            return b"error", b"ERR INTERNAL a defect of Milena"
        return self._handed_over(reply)

    def _handed_over(self, reply: Any) -> tuple[bytes, Any]:
        if reply is None:
            return b"null", None
        if isinstance(reply, Simple):
            return b"status", reply.encode()
        if isinstance(reply, Raw):
            return (b"status", bytes(reply[1:-2])) if reply[:1] == b"+" else (b"error", b"ERR not available")
        if isinstance(reply, bool | int):
            return b"value", int(reply)
        if isinstance(reply, bytes | str):
            value = reply.encode() if isinstance(reply, str) else reply
            if len(value) > MAX_BYTES:
                return b"error", b"ERR the value has %d bytes; scripts take at most %d" % (len(value), MAX_BYTES)
            return b"value", value
        if isinstance(reply, list | tuple):
            if any(not isinstance(each, bytes | int | None) for each in reply):
                return b"error", b"ERR replies of this kind are not available in scripts"
            if sum(len(each) for each in reply if isinstance(each, bytes)) > MAX_BYTES:
                return b"error", b"ERR the values have more than %d bytes, which scripts do not take" % MAX_BYTES
            self._items = reply
            return b"list", len(reply)
        return b"error", b"ERR replies of this kind are not available in scripts"

    def _item(self, at: int) -> Any:
        try:
            return self._items[int(at) - 1]
        except BaseException:
            return None


def _line(text: str) -> bytes:
    return text.replace("\r", " ").replace("\n", " ").encode(errors="replace")[:1024]


def _reason(error: Exception) -> str:
    text = error.args[0] if error.args else ""
    return text.decode(errors="replace") if isinstance(text, bytes) else str(text).partition("\n")[0]
