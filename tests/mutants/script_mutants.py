"""Pure. Faults of scripts: what they may touch, how they are bounded, and what is left of them."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Bug, Change

_CALLS: Final = "milena_cache/servers/resp/scripts/calls.py"
_COMMANDS: Final = "milena_cache/servers/resp/commands/data/scripting.py"
_TESTS: Final = "tests/cache/servers/resp/commands/data/test_scripting.py"

SCRIPT_BUGS: tuple[Bug, ...] = (
    Bug(
        "a script that is stopped leaves what it has written",
        (
            Change(
                _COMMANDS,
                'raise NothingDone(f"ERR the script was stopped: {stopped}; nothing was done") from None',
                'return Raw(b"-ERR the script was stopped: nothing was done\\r\\n")',
            ),
        ),
        (_TESTS,),
    ),
    Bug(
        "a script that is stopped leaves what it has written, in a transaction",
        (Change("milena_cache/servers/resp/commands/data/execution.py", "except NothingDone:", "except OSError:"),),
        (f"{_TESTS}::test_a_script_that_is_stopped_leaves_nothing_of_its_transaction_done",),
    ),
    Bug(
        "the scripts of a transaction take any time",
        (
            Change(
                "milena_cache/servers/resp/commands/data/execution.py",
                "self._script_seconds > SCRIPT_SECONDS",
                "False",
            ),
        ),
        (f"{_TESTS}::test_scripts_of_a_transaction_have_a_time_together",),
    ),
    Bug(
        "scripts may leave any number of bytes",
        (Change(_CALLS, "self._written > MAX_WRITTEN_BYTES", "False"),),
        (_TESTS,),
    ),
    Bug(
        "read-only scripts write",
        (Change(_CALLS, 'self._read_only and command.access != "read"', "False"),),
        (f"{_TESTS}::test_a_read_only_script_reads_and_cannot_write",),
    ),
    Bug(
        "a read-only script is forwarded as one that writes",
        (Change("milena_common/forwarding/scripts.py", 'b"EVALSHA_RO": b"EVAL_RO"', 'b"EVALSHA_RO": b"EVAL"'),),
        (f"{_TESTS}::test_a_script_is_forwarded_by_its_source_in_the_form_in_which_it_was_called",),
    ),
    Bug(
        "any number of scripts is kept",
        (
            Change(
                "milena_common/forwarding/scripts.py",
                "len(self._sources) > MAX_SCRIPTS or self._bytes > MAX_BYTES",
                "self._bytes > MAX_BYTES",
            ),
        ),
        (_TESTS,),
    ),
    Bug(
        "who may run scripts may have them call anything",
        (Change("milena_cache/servers/resp/state/permissions.py", "if name in SCRIPTS:", "if False:"),),
        (_TESTS,),
    ),
    Bug(
        "a sandbox that has stopped a script is used again",
        (
            Change(
                "milena_cache/servers/resp/scripts/sandbox.py",
                "            self._make()  # it raises at each instruction from now on, or its state is unknown\n",
                "",
            ),
        ),
        ("tests/cache/servers/resp/scripts/test_sandbox.py",),
    ),
)
