"""The command `milena`: for people: objects, ring and nodes, and a whole cluster on one machine."""
