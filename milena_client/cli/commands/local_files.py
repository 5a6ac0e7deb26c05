"""Shell. Objects as files of this machine: the file for a key, and the files below a directory.

Keys are chosen by all writers of the bucket, so they are untrusted. They must not lead out of the directory that
the user named: not by `..`, not by an absolute path, and not through a symbolic link that is there already.
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from milena_common.api.errors import InvalidRequest


def file_for(key: str, directory: Path) -> Path:
    """Return the file below `directory` for `key`. Raises InvalidRequest for a key that names none.

    A key such as ``../../etc/passwd`` must not lead out of the directory, and ``a//b`` and ``a/b`` would share a
    file.
    """
    if any(part in ("", ".", "..") for part in key.split("/")) or "\0" in key:
        raise InvalidRequest("this key cannot be a file name; get it by itself with -f FILE")
    return directory / key


def relative_to_prefix(key: str, prefix: str) -> str:
    """Return the part of `key` behind the last slash of `prefix`, which is what `put DIR --prefix` adds."""
    return key[prefix.rfind("/") + 1 :]


def write_file(path: Path, value: bytes, directory: Path) -> None:
    """Write `value` to `path`, and make the directories above it. A file that is there is replaced as a whole.

    A reader finds the old file or the new one, and an interruption leaves the old one. A symbolic link in the place
    of the file is replaced, not followed. Raises OSError, and InvalidRequest if a symbolic link above it leads out
    of `directory`.
    """
    make_directory(path.parent, directory)
    _replace(path, value)


def write_named_file(path: Path, value: bytes) -> None:
    """Write `value` to a file that the user has named; a regular one is replaced as a whole, and keeps its mode.

    A full disk leaves the file that was there, or none. Links are followed, and devices and pipes are written to.
    Raises OSError.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(value)
    else:
        _replace(path.resolve(), value)


def _replace(path: Path, value: bytes) -> None:
    # A name of its own: the file's name with an addition might be too long for the file system.
    part = path.parent / f".milena-{secrets.token_hex(8)}.part"
    try:
        part.write_bytes(value)
        if path.is_file():
            shutil.copymode(path, part)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def make_directory(path: Path, directory: Path) -> None:
    """Make `path`, which is `directory` or below it, and those above. Raises as `write_file`."""
    if not path.resolve().is_relative_to(directory.resolve()):
        raise InvalidRequest(f"{path}: a symbolic link leads out of {directory}")
    path.mkdir(parents=True, exist_ok=True)


def files_below(directory: Path) -> tuple[list[Path], list[tuple[str, OSError]]]:
    """Return all regular files below `directory`, sorted, and the directories that cannot be read, with the reason.

    Links to directories are not followed.
    """
    unreadable: list[OSError] = []
    files = sorted(
        path
        for folder, _, names in os.walk(directory, onerror=unreadable.append)
        for path in (Path(folder, name) for name in names)
        if path.is_file()
    )
    return files, [(str(error.filename), error) for error in unreadable]
