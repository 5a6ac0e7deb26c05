"""What the membership keeps of nodes that are gone, or have failed.

- `releases`: until when slots of a lost process may still be served by it.
- `missing_nodes`: nodes that left writes behind, for operators.
- `copy_timers`: failed holders of copies that are left out, and slots that wait for lost nodes.
"""
