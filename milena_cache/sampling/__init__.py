"""What is learned of the reads of a node from a sample of them: how much memory it needs, and which keys are hot.

- `miniature`: the memory at another size, simulated for a sample of the keys.
- `curve`: several of these, from a quarter of the memory to eight times as much: the miss-ratio curve.
"""
