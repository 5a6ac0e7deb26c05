"""Benchmarks: `python -m bench` compares Milena with peers, or with another build of itself.

- `case`: the parts of a case; `cases`: all cases; `fixtures`: the processes that they measure.
- `nodes`, `peers`: what is measured, and what it is compared with; `programs`: measuring processes; `workload`:
  load.
- `child`, `cores`, `machine`: processes, processor cores and facts of the machine.
- `summary`, `report`, `against`: medians and ratios, their output, and the comparison with another build.

Ratios count, not absolute numbers: each case does its work in several ways within the same minute.
"""
