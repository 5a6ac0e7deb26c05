"""The commands, by subject: `data`, `connection`, `server`; `registry` has all of them by name.

A command is a function of context, session and arguments, which returns a reply or an awaitable of one. All its
metadata are in the function's decorator. What is in memory is replied to without an await. Error texts are those of
Redis where Redis has the error.
"""
