"""Shell. DuckDB: Parquet files that it writes, in parts too, and reads by columns and by a glob."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import duckdb  # type: ignore[import-not-found]
import duckdb_extension_httpfs  # type: ignore[import-not-found]

url, bucket, prefix = sys.argv[1:]
extensions = Path(duckdb_extension_httpfs.__file__).parent / "extensions" / f"v{duckdb.__version__}"
database = duckdb.connect(config={"allow_unsigned_extensions": "true", "home_directory": os.getcwd()})
database.execute(f"LOAD '{extensions / 'httpfs.duckdb_extension'}'")
database.execute(
    f"CREATE SECRET (TYPE s3, KEY_ID '{os.environ['AWS_ACCESS_KEY_ID']}', "
    f"SECRET '{os.environ['AWS_SECRET_ACCESS_KEY']}', REGION 'us-east-1', URL_STYLE 'path', USE_SSL false, "
    f"ENDPOINT '{url.removeprefix('http://')}')"
)
root = f"s3://{bucket}/{prefix}"
database.execute(f"COPY (SELECT range AS n FROM range(1000)) TO '{root}a b.parquet'")
database.execute(
    f"COPY (SELECT range AS n, md5(range::VARCHAR) AS text FROM range(500000)) TO '{root}large.parquet' "
    "(ROW_GROUP_SIZE 50000)"
)
rows = database.execute(f"SELECT count(*), sum(n) FROM '{root}*.parquet'").fetchall()
assert rows == [(501_000, sum(range(1000)) + sum(range(500_000)))], rows
rows = database.execute(f"SELECT n FROM '{root}large.parquet' WHERE text = md5('4711')").fetchall()
assert rows == [(4711,)], rows
assert [name for (name,) in database.execute(f"SELECT file FROM glob('{root}**')").fetchall()] == [
    f"{root}a b.parquet",
    f"{root}large.parquet",
]
