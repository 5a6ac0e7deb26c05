"""Starts the command line, or says which packages it needs."""

from __future__ import annotations

import sys

from milena_common.process.distribution import install_command


def main() -> None:
    """The command `milena`."""
    try:
        from milena_client.cli.app import milena
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("click", "rich"):
            raise
        print(f"milena: the package {package} is missing: {install_command('cli')}", file=sys.stderr)
        sys.exit(1)
    milena(prog_name="milena")


if __name__ == "__main__":
    main()
