"""Who makes a request, and what it may do: one table of users for all ports of a process.

- `commands`: the names by which permissions are given, and their categories.
- `rules`: a user of Redis's ACL language, and its decisions; `acl_file` reads a file of them.
- `glob`: Redis's patterns.

Invariants: a name that the table does not have is denied; a file with one wrong line changes nothing.
"""
