"""The environment of a process: configuration, logs, signals, exit code.

- `command`: the console commands, before the process is wired; `run`: from the environment to the exit code.
- `env`: reads configuration and reports every problem at once.
- `logs`, `native_log`: one line for each event, including output of native libraries.
- `facts`: memory, processor time and system of the process; `heap`: returns freed memory to the system.
- `distribution`: its package name and version.
"""
