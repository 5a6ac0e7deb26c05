"""Metrics: plain integers where they are counted, families of samples when they are scraped.

- `histogram`, `call_counts`: the counts; `families`: makes metric families of them at a scrape.
- `http_server`: `/metrics`, liveness and readiness on METRICS_PORT.

Labels never hold keys, and the exported names are those that dashboards query.
"""
