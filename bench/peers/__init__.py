"""The programs that Milena is compared with or runs on.

- `redis_server`, `redis_benchmark`, `resp_pipeline`: Redis, its load generator, and a fast client.
- `bare_chain`: gRPC servers that do nothing; `s3_stub`, `s3_objects`, `stub_process`: an S3 for benchmarks.
"""
