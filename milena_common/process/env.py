"""Pure. Reads a process's configuration from its environment, and reports every problem at once.

An operator with three invalid variables should see all three at once, not one at each restart. So a reader
records a problem and continues with the default; `check()` at the end raises them all. Empty and missing are the
same, because compose files and shells cannot always distinguish them; `emptied` is for settings that can be
switched off.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from milena_common.api.errors import ConfigError
from milena_common.network.addresses import ALLOWED, Address, canonical_host, parse_address

_SIZE_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SIZE_UNITS |= {"k": 2**10, "m": 2**20, "g": 2**30, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


class Environment:
    """Typed access to variables.

    `read_names` has every name that was read, `problems` one line for each problem.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables
        self.read_names: list[str] = []
        self.problems: list[str] = []

    def check(self) -> None:
        """Raise ConfigError if any variable that was read is invalid."""
        if self.problems:
            raise ConfigError(self.problems)

    def problem(self, name: str, got: str, allowed: str) -> None:
        """Record that variable `name` has an invalid value."""
        shown = f"{got[:100]!r}" if got else "nothing"
        self.problems.append(f"{name}: got {shown}; allowed: {allowed}")

    def hidden_problem(self, name: str, allowed: str) -> None:
        """Record that variable `name` has an invalid value, which may be secret and is not shown."""
        self.problems.append(f"{name}: got a value that is not shown here; allowed: {allowed}")

    def secret(self, name: str) -> str:
        """Return the value, visible ASCII characters without a space; no message shows it."""
        self.read_names.append(name)
        value = self._variables.get(name, "").strip()
        if not re.fullmatch(r"[\x21-\x7e]*", value) or value[:1] in ("'", '"'):
            self.hidden_problem(name, "visible ASCII characters, without quotes, spaces and line ends")
            return ""
        return value

    def text(self, name: str, default: str = "", *, required: str = "") -> str:
        """Return the value unchanged. `required` describes the expected value where there is no default."""
        self.read_names.append(name)
        value = self._variables.get(name, "").strip()
        if not value.isprintable():  # surrogates too: bytes of the environment that are not UTF-8
            self.problem(name, value.encode(errors="backslashreplace").decode(), "printable UTF-8 text")
            return default
        if not value and required:
            self.problem(name, "", required)
        return value or default

    def emptied(self, name: str) -> bool:
        """True if the variable is set and empty, for those where empty means "none" and missing the default."""
        return name in self._variables and not self._variables[name].strip()

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        """Return a whole number from `low` to `high`."""
        value = self.text(name)
        if not value:
            return default
        if not re.fullmatch(r"[+-]?[0-9]{1,30}", value) or not low <= int(value) <= high:
            self.problem(name, value, f"a whole number from {low} to {high}")
            return default
        return int(value)

    def number(self, name: str, default: float, low: float, high: float, unit: str = "") -> float:
        """Return a number from `low` to `high`; `unit` is named in the problem."""
        value = self.text(name)
        if not value:
            return default
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not low <= number <= high:  # False for NaN too
            self.problem(name, value, f"a number{unit and ' of ' + unit} from {low:g} to {high:g}")
            return default
        return number

    def seconds(self, name: str, default: float, low: float, high: float) -> float:
        """Return a duration in seconds."""
        return self.number(name, default, low, high, "seconds")

    def size(self, name: str, default: int, low: int, high: int) -> int:
        """Return a number of bytes, given with or without a unit: `1073741824`, `1GiB`, `500MB`."""
        value = self.text(name)
        if not value:
            return default
        match = re.fullmatch(r"([0-9]{1,20})\s*([A-Za-z]*)", value)
        unit = _SIZE_UNITS.get(match[2].lower()) if match else None
        if match is None or unit is None or not low <= int(match[1]) * unit <= high:
            self.problem(name, value, f"bytes from {low} to {high}, units KB MB GB KiB MiB GiB")
            return default
        return int(match[1]) * unit

    def choice(self, name: str, default: str, choices: Sequence[str]) -> str:
        """Return one of `choices`, matched without regard to case."""
        value = self.text(name, default).lower()
        if value not in choices:
            self.problem(name, value, " or ".join(choices))
            return default
        return value

    def host(self, name: str, default: str) -> str:
        """Return a host name or IP address, without a port; IPv6 with or without brackets."""
        value = self.text(name, default)
        host_name = value[1:-1] if value.startswith("[") and value.endswith("]") else value
        host = canonical_host(host_name)
        if host is None:
            self.problem(name, value, "a host name or IP address")
            return default
        return host

    def address(self, name: str, default: str, *, lowest_port: int = 1) -> Address:
        """Return a network address."""
        value = self.text(name)
        try:
            return parse_address(value or default, lowest_port=lowest_port)
        except ValueError as error:
            self.problem(name, value, f"{ALLOWED} ({error})")
            return parse_address(default, lowest_port=lowest_port)
