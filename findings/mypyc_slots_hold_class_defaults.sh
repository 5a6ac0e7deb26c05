#!/usr/bin/env bash
# mypy 2.4.1 (mypyc): a default in the body of a class with __slots__ takes room in every instance of the compiled class.
#
# In Python a name that is not in __slots__ belongs to the class: its default costs an instance nothing, and cannot be
# set on one. Compiled, __slots__ is not heeded for that: each default is a field of the instance. So a class that leaves
# rare attributes to a subclass, to be small, is larger compiled than interpreted: here 56 bytes instead of 24.
#
# Exits with 0 as long as that is so, with 1 when it has changed. Needs a C compiler and Python's headers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mypy==2.4.1' 'setuptools==84.2.1'
cd "$folder"
cat >entries.py <<'PY'
class Entry:
    __slots__ = ("value",)

    expires_at: float = 0.0
    written_at: float = 0.0
    origin: str = ""

    def __init__(self, value: object) -> None:
        self.value = value


class Small:
    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value
PY
show='import entries; print(entries.Entry.__basicsize__, entries.Small.__basicsize__)'
interpreted=$(venv/bin/python -c "$show")
venv/bin/mypyc entries.py >/dev/null 2>&1
compiled=$(venv/bin/python -c "$show")
echo "bytes of an instance with defaults, and of one without: interpreted $interpreted, compiled $compiled"
[ "$interpreted" = "24 24" ] && [ "$compiled" = "56 32" ]
