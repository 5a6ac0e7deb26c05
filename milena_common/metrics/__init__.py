"""Metrics: plain integers while counting, metric families at a scrape.

- `histogram`, `call_counts`: the counts; `families`: converts them to metric families at a scrape.
- `http_server`: `/metrics`, liveness and readiness on METRICS_PORT.

Labels never hold keys, and the exported names are those that dashboards query.
"""
