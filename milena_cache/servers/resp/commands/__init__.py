"""The commands, by subject: `data`, `connection`, `server`; `registry` has all of them by name.

A command is a function of context, session and arguments. It returns a value, or something to be awaited.
"""
