"""What is counted of commands: plain integers and bounded logs.

- `command_metrics`: one call for each reply; `command_stats`: counts by command and error; `rates`: growth a
  second.
- `slow_commands`, `slow_log`, `latency_monitor`: commands that took long.
"""
