"""What surrounds the work of a process: environment, logs, signals, exit code.

- `command`: the console commands before anything is wired; `run`: from the environment to the exit code.
- `env`: reads configuration and reports every problem at once.
- `logs`, `native_log`: one line for each event, also for what native libraries write.
- `facts`: what the operating system knows of the process; `heap`: gives freed memory back to it.
- `distribution`: its package name and version.
"""
