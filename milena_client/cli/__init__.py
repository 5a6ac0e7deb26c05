"""The command `milena`: a person's way to objects, ring and nodes, and to a whole cluster on one machine."""
