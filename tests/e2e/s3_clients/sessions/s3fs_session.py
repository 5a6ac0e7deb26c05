"""Shell. s3fs: files `small` and `large` of this folder, under a name and as `large`; `gone` is deleted."""

from __future__ import annotations

import sys
from pathlib import Path

import s3fs  # type: ignore[import-untyped,import-not-found]

url, bucket, prefix, name = sys.argv[1:]
small, large = Path("small").read_bytes(), Path("large").read_bytes()
files = s3fs.S3FileSystem(endpoint_url=url)
root = f"{bucket}/{prefix}"
files.pipe(f"{root}{name}", small)
with files.open(f"{root}large", "wb", block_size=5 * 2**20) as file:
    file.write(large)
files.put("small", f"{root}gone")
assert files.cat(f"{root}{name}") == small
files.get(f"{root}large", "back")
assert Path("back").read_bytes() == large
assert files.cat_ranges([f"{root}large"], [100], [200]) == [large[100:200]]
with files.open(f"{root}large") as file:
    file.seek(1_000_000)
    assert file.read(10) == large[1_000_000:1_000_010]
assert sorted(files.find(root)) == sorted([f"{root}{name}", f"{root}gone", f"{root}large"])
try:
    files.pipe(f"{root}{name}", b"2", mode="create")
except OSError:
    pass
else:
    raise AssertionError("an object that exists was created")
files.rm(f"{root}gone")
files.invalidate_cache()
assert not files.exists(f"{root}gone")
