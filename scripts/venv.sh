# Sourced by the scripts that need Milena installed, from the repository's root:
#
#     source scripts/venv.sh
#     ensure_venv local        # or test
#     .venv/bin/python -m …
#
# It makes .venv if there is none and installs this source tree into it, editable, with the requested extra.
# A second call finds its stamp and does nothing until pyproject.toml changes. Two scripts may call it at
# the same time: one waits for the other.

# The first of the interpreters on PATH that is new enough and able to make a virtual environment.
find_python() {
    local candidate
    for candidate in python3 python3.14 python3.13 python3.12 python3.11 python; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "Python 3.11 or newer with its venv module is needed, and none is on PATH." >&2
    echo "On Debian and Ubuntu: apt-get install python3 python3-venv" >&2
    return 1
}

# ensure_venv EXTRA: make .venv and install Milena with EXTRA, if necessary. Needs no terminal; prints its steps to
# stderr.
ensure_venv() (
    # A subshell, so that the lock is released at any end of the function.
    exec 9<pyproject.toml
    if command -v flock >/dev/null; then flock 9; fi

    extra=$1
    wanted="$PWD $(cksum <pyproject.toml)"
    if .venv/bin/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        if [ "$(cat ".venv/.milena-$extra" 2>/dev/null)" = "$wanted" ]; then exit 0; fi
    else
        python=$(find_python) || exit 1
        echo "making .venv with $("$python" --version)" >&2
        "$python" -m venv --clear .venv || exit 1
    fi
    echo "installing milena-cache[$extra] into .venv; the first time takes a minute or two" >&2
    .venv/bin/python -m pip install --quiet --no-input --disable-pip-version-check --editable ".[$extra]" \
        </dev/null || exit 1
    echo "$wanted" >".venv/.milena-$extra"
    # The extra `test` includes `local`.
    if [ "$extra" = test ]; then echo "$wanted" >.venv/.milena-local; fi
)
