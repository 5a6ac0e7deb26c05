"""Objects as files for libraries that use fsspec: ``milena://BUCKET/KEY``.

    import pandas

    pandas.read_parquet("milena://my-bucket/2024.parquet", storage_options={"router": "router:50050"})

- `filesystem`: the filesystem; `reading`, `writing`: its open files; `failures`: errors as those of files.

It needs the extra `fsspec`, and nothing else of Milena imports it.
"""

from milena_client.fsspec.filesystem import MilenaFileSystem

__all__ = ["MilenaFileSystem"]
