"""Scripts of clients (EVAL), in a sandbox of Lua: pure functions of declared keys and arguments.

- `prelude`: the Lua code that makes the sandbox; `sandbox`: runs scripts in it.
- `calls`: the commands that a script may call, on the objects that it declared.

Invariants: a script reaches no file, no process, no other script's state and no object of Python; and it ends,
within the bounds that `sandbox` lists, also if it is written to do neither.
"""
