#!/usr/bin/env bash
# mypy 2.4.1 (mypyc): a slice of bytes that begins behind its end is a SystemError in a compiled module, and b"" in
# Python, as the language says.
#
# CPyBytes_GetSlice passes the negative length on to PyBytes_FromStringAndSize. Code such as
# `data[start : data.find(b"\r\n", start)]`, with the check for -1 behind the slice, works until it is compiled: then
# bytes from a client end its connection with an error of the interpreter.
#
# Exits with 0 as long as that is so, with 1 when it has changed. Needs a C compiler and Python's headers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mypy==2.4.1' 'setuptools==84.2.1'
cd "$folder"
cat >part.py <<'PY'
def between(data: bytes, start: int, end: int) -> bytes:
    return data[start:end]
PY
venv/bin/python -c 'from part import between; assert between(b"abc", 3, -1) == b""'
venv/bin/mypyc part.py >/dev/null 2>&1
venv/bin/python - <<'PY'
import sys

import part

assert not part.__file__.endswith(".py"), part.__file__
try:
    part.between(b"abc", 3, -1)
except SystemError as error:
    print(error)
else:
    sys.exit("a slice that begins behind its end is empty now")
PY
