"""Statistics of commands: plain integers and bounded logs.

- `command_metrics`: called once for each reply; `command_stats`: counts by command and error; `rates`: growth a
  second.
- `slow_commands`, `slow_log`, `latency_monitor`: commands that took long.

Invariant: counts that the metrics export only grow; CONFIG RESETSTAT resets what INFO derives from them.
"""
