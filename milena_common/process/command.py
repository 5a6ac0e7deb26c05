"""Shell. The commands `milena-router` and `milena-cache`: their arguments, before the process is wired.

A process is configured by its environment, so a command takes no arguments but `--help` and `--version`. It imports
the process only to run it: the packages of the extra `server` may not be installed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence

from milena_common.process.distribution import described_version, install_command

USAGE_ERROR = 2


def start(
    program: str,
    about: str,
    arguments: Sequence[str],
    variables: Callable[[], Iterable[str]],
    main: Callable[[], None],
) -> int:
    """Run `main`, or print what `arguments` request; return the exit code.

    `about` describes `program` in a sentence; `variables` returns the names of the variables it reads.
    """
    if arguments:
        if arguments[0] in ("-h", "--help"):
            print(_help(program, about, variables()))
            return 0
        if arguments[0] in ("-V", "--version"):
            print(f"{program} {described_version()}")
            return 0
        print(
            f"{program}: takes no arguments, got {arguments[0]!r}; it is configured by environment variables: see "
            f"{program} --help",
            file=sys.stderr,
        )
        return USAGE_ERROR
    try:
        main()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if not package or package.startswith("milena_"):
            raise
        print(f"{program}: the package {package} is missing: {install_command('server')}", file=sys.stderr)
        return 1
    return 0


def _help(program: str, about: str, variables: Iterable[str]) -> str:
    names = "\n".join(f"  {name}" for name in sorted(variables))
    return (
        f"usage: {program} [--help | --version]\n\n{about} It runs until SIGTERM or Ctrl-C, and is configured by\n"
        "environment variables, or a file .env in the working directory; docs/configuration.md explains them:\n\n"
        f"{names}"
    )
