"""Check recorded histories of a register per key for linearizability; used by real runs and by simulation.

- `operations`: what a history consists of, and its form in a file of JSON lines.
- `checker`: decide whether the operations of one key are linearizable, within bounds of work and memory.
- `counterexample`: reduce a history that is not to the few operations that show it.
- `__main__`: check a saved history again: ``python -m tests.faults.linearizability FILE``.

Invariants: a bound that is exceeded is "undecided", never "linearizable"; the keys of a history are independent, so
each is checked by itself (Herlihy and Wing 1990, theorem 1: linearizability is local).
"""
