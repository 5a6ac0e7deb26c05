"""What commands make of the values of their keys: pure functions, which read and change nothing but a `Values`.

- `values`: the objects of a command or of a transaction, as they were read and as they have been changed.
- `strings`, `numbers`, `bits`, `lcs`, `expiry`, `keys`: the commands; `set_options`, `timestamps`: their arguments.

A decision takes the `Values` and the arguments, and returns the reply. It raises CommandError before it changes
anything. So the same function serves a command by itself, which is repeated when another writer was faster, and one
in a transaction, where it sees what the commands before it have changed.
"""
